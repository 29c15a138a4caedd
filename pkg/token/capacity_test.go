// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// TestFull fills tokens with records of one segment, and goes on with updates
// and deletes for long. No fresh process may ever miss an object.
func TestFull(t *testing.T) {
	t.Parallel()
	for _, p := range []faulttoken.Profile{faulttoken.Pico66, faulttoken.PicoDev, faulttoken.SmartCardHSM} {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			s := provision(t, p)
			want := newContent()
			revision := uint64(0)
			try := func(change func(revision uint64) token.Change) error {
				revision++
				c := []token.Change{change(revision)}
				err := s.Commit(c)
				if err == nil {
					want = want.apply(c)
				}
				s.collect()
				return err
			}
			create := func(n int) error {
				return try(func(r uint64) token.Change { return put(fmt.Sprintf("ns/%03d", n), r, 500) })
			}
			n := 0
			var err error
			for ; err == nil; n++ {
				err = create(n)
			}
			full := len(want)
			if token.ReasonOf(err) != token.Full {
				t.Fatalf("creating number %d gave %v", n, err)
			}
			if p.TotalBytes == 0 && full < 96 {
				t.Errorf("%d records of one segment fit, expected at least 96", full)
			}
			for i := range 3 * full {
				if err := try(func(r uint64) token.Change { return put(fmt.Sprintf("ns/%03d", i%full), r, 500) }); err != nil {
					t.Fatalf("update %d of a full token: %v", i, err)
				}
			}
			s.reopen()
			s.expect(want)
			for i := range full {
				if err := try(func(r uint64) token.Change { return del(fmt.Sprintf("ns/%03d", i), r) }); err != nil {
					t.Fatalf("delete %d of a full token: %v", i, err)
				}
				if i >= 10 && i < 40 { // some first, for updates made the segments longer
					if err := create(n + i); err != nil {
						t.Fatalf("creating one after delete %d of a full token: %v", i, err)
					}
				}
			}
			s.reopen()
			s.expect(want)
			if seen := len(s.token.Flash()); seen > p.Visible {
				t.Errorf("%d objects, of which a fresh process sees %d", seen, p.Visible)
			}
		})
	}
}

// TestFullIsFoundFirst: what does not fit does not touch the token, not even in part.
func TestFullIsFoundFirst(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	revision := uint64(0)
	for {
		revision++
		before := s.token.Counters().Calls[faulttoken.Create]
		err := s.Commit([]token.Change{put(fmt.Sprintf("ns/%d", revision), revision, 50000)})
		if err == nil {
			continue
		}
		if token.ReasonOf(err) != token.Full || s.token.Counters().Calls[faulttoken.Create] != before {
			t.Errorf("the first that does not fit gave %v, after %d creates", err, s.token.Counters().Calls[faulttoken.Create]-before)
		}
		break
	}
	// A smaller one still fits, with the same revision.
	s.commit(put("ns/small", revision, 100))
}

// TestKeysOfOthers: a Pico HSM shows so many objects, keys and certificates included, and the
// newer firmware says OK to more. None of the store's is ever among those that nobody sees.
func TestKeysOfOthers(t *testing.T) {
	t.Parallel()
	const others = 18 // Key pairs; two objects each.
	s := provisionWithLog(t, faulttoken.PicoNext)
	for i := range others {
		pair, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s.token.PutKeyPair(fmt.Sprint("of others ", i), pair)
	}
	s.token.PutCertificates(1)
	s.reopen()
	visible := faulttoken.PicoNext.Visible - 2*(others+1) - 1
	want := newContent()
	full := false
	for i := range 2 * visible { // Then updates, which may use the reserve.
		change := put(fmt.Sprintf("ns/%03d", i%visible), s.next(), 1500)
		err := s.Commit([]token.Change{change})
		switch {
		case err == nil:
			want = want.apply([]token.Change{change})
		case token.ReasonOf(err) != token.Full:
			t.Fatal(err)
		default:
			full = true
			s.collect()
		}
		if n := len(s.token.Flash()); n > visible {
			t.Fatalf("the token holds %d objects, and shows %d", n, visible)
		}
	}
	if u := s.Usage(); !full || u.Keys != 2*(others+1)+1 || u.Profile.Objects != visible || u.FreeObjects != 0 {
		t.Errorf("usage is %+v; it was full: %v", u, full)
	}
	for range 20 {
		s.reopen()
		s.expect(want)
		s.collect()
	}

	// More of them come than the store leaves room for. What the token does not show then is
	// neither served from the log nor written once more, and nothing is lost.
	before := len(s.token.Flash())
	s.token.PutCertificates(1 + visible - before + 2)
	for range 3 {
		if _, err := s.open(token.Options{StoreID: s.id}); token.ReasonOf(err) != token.Full {
			t.Fatalf("a token that hides two objects: %v", err)
		}
		if n := len(s.token.Flash()); n != before {
			t.Fatalf("there were %d objects, and are %d", before, n)
		}
	}
	s.token.PutCertificates(1)
	s.reopen()
	s.expect(want)
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	for _, p := range faulttoken.Profiles {
		info := faulttoken.New(p).Info()
		got := token.ProfileFor(info)
		if p.Manufacturer == faulttoken.Pico66.Manufacturer && got.Name != "pico" || p.Manufacturer != faulttoken.Pico66.Manufacturer && got.Name != p.Name {
			t.Errorf("%s %s has profile %s", info.Manufacturer, info.Model, got.Name)
		}
		if got.Objects > p.Visible || got.SegmentBytes > p.MaxBytes || p.TotalBytes > 0 && got.StoreBytes > p.TotalBytes {
			t.Errorf("profile %s takes more than the token holds: %+v", got.Name, got)
		}
		info.Manufacturer = "someone else"
		if other := token.ProfileFor(info); other.Name != "generic" {
			t.Errorf("an unknown token has profile %s", other.Name)
		}
	}
}

func sampleMeta(i int) []byte {
	return fmt.Appendf(nil, `{"kind":"HSMSecret","apiVersion":"hsm.j5t.io/v1alpha1","metadata":{"name":"secret-%[1]d","namespace":"team-%[2]d","uid":"%08[3]x-3c1f-4b7e-9d5a-%012[4]x",`+
		`"creationTimestamp":"2026-09-11T11:23:41Z","labels":{"app.kubernetes.io/name":"billing-%[1]d","tier":"db"},`+
		`"managedFields":[{"manager":"kubectl","operation":"Apply","apiVersion":"hsm.j5t.io/v1alpha1","time":"2026-09-11T11:23:41Z","fieldsType":"FieldsV1",`+
		`"fieldsV1":{"f:data":{"f:DB_HOST":{},"f:DB_PASSWORD":{},"f:DB_USER":{}},"f:metadata":{"f:labels":{"f:app.kubernetes.io/name":{},"f:tier":{}}},`+
		`"f:spec":{"f:autoSync":{},"f:hsmPath":{},"f:secretName":{},"f:secretType":{},"f:syncInterval":{}}}}]},`+
		`"spec":{"hsmPath":"secrets/team-%[2]d/secret-%[1]d","secretName":"secret-%[1]d","secretType":"Opaque","autoSync":true,"syncInterval":300,"syncDirection":"Bidirectional","deletionPolicy":"Delete"},"status":{}}`,
		i, i%7, i*2654435761%(1<<32), i*11400714819323%(1<<48))
}
