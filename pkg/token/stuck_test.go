// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"slices"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// TestStuckObject: the token is pulled inside of a destroy, and has an object from then on
// that nobody can destroy. Reads, writes and the rest of the garbage do not wait for it.
func TestStuckObject(t *testing.T) {
	t.Parallel()
	s := provisionWithLog(t, faulttoken.PicoNext)
	s.commit(put("ns/a", s.next(), 10))
	s.commit(put("ns/a", s.next(), 10))
	s.commit(put("ns/a", s.next(), 10)) // lists the first one
	s.token.AtStep(2, false, (*faulttoken.Token).Remove)
	if _, err := s.CollectGarbage(); err == nil {
		t.Fatal("the token was not pulled")
	}
	s.token.Insert()
	s.reopen()
	free := s.Usage().FreeObjects
	want := read(t, s.Store)
	for range 100 { // The list of superseded commits goes through all its sizes.
		change := put("ns/a", s.next(), 10)
		s.commit(change)
		want = want.apply([]token.Change{change})
		s.collect()
	}
	s.expect(want)
	u, report := s.Usage(), s.RecoveryReport()
	if u.Stuck != 1 || len(report.Stuck) != 1 || u.FreeObjects != free-1 || u.Objects != len(s.token.Flash()) {
		t.Errorf("usage %+v, stuck %v; %d objects were free before", u, report.Stuck, free)
	}

	// A start tries once, and only a start.
	before := s.token.Counters().Calls[faulttoken.Destroy]
	s.reopen()
	s.collect()
	s.collect()
	if got := s.token.Counters().Calls[faulttoken.Destroy] - before; got != 1 {
		t.Errorf("%d destroys", got)
	}

	// It never counts again, whatever becomes of it, and without the log.
	s.token.Change(report.Stuck[0], func(o *faulttoken.Object) bool { o.Broken = false; return true })
	s.dir = ""
	s.reopen()
	s.expect(want)
	s.collect()
	if u := s.Usage(); u.Stuck != 0 {
		t.Errorf("usage %+v", u)
	}
}

// TestManyStuckObjects: more than the list of superseded commits names.
func TestManyStuckObjects(t *testing.T) {
	t.Parallel()
	s := provisionWithLog(t, faulttoken.PicoNext)
	s.commit(put("ns/a", s.next(), 10), put("ns/b", s.next(), 10))
	want := read(t, s.Store)
	for range 80 {
		change := put("ns/a", s.next(), 10)
		s.commit(change)
		want = want.apply([]token.Change{change})
		for more := true; more; {
			u := s.Usage()
			if u.Superseded > 0 && u.Stuck < 70 {
				halve(s.token, superseded(s))
			}
			more, _ = s.CollectGarbage()
		}
	}
	stuck := 0
	for _, o := range s.token.Flash() {
		if o.Broken {
			stuck++
		}
	}
	if stuck <= 64 {
		t.Fatalf("%d objects are stuck", stuck)
	}
	for _, dir := range []string{s.dir, ""} {
		s.dir = dir
		s.reopen()
		s.collect()
		s.expect(want)
		if u := s.Usage(); u.Stuck+u.Quarantined != stuck || u.Stuck < 64 {
			t.Errorf("usage %+v", u)
		}
	}
}

// superseded is the label of the oldest segment, which is destroyed next.
func superseded(s *stick) string {
	var labels []string
	for _, o := range s.token.Flash() {
		if o.Application == application && !o.Broken && o.Label != keyring {
			labels = append(labels, o.Label)
		}
	}
	return slices.Min(labels)
}

func halve(tok *faulttoken.Token, label string) {
	tok.Change(label, func(o *faulttoken.Object) bool { o.Broken = true; return true })
}

// TestRefusedCreate: a token that answers refuses an object, by the code of a lost one.
// The commit was not made, and the session lives.
func TestRefusedCreate(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		for _, code := range []uint{pkcs11.CKRGeneralError, pkcs11.CKRDeviceError, pkcs11.CKRFunctionFailed} {
			for part := range 3 {
				s := provisionWithLog(t, p)
				s.commit(put("ns/a", s.next(), 10))
				want := read(t, s.Store)
				logins := s.token.Counters().Calls[faulttoken.Login]
				failNth(s.token, part, faulttoken.Fault{Code: code})
				id := s.next()
				err := s.Commit([]token.Change{put("ns/a", id, 2*s.Usage().Profile.SegmentBytes+9)})
				if token.ReasonOf(err) != token.Full {
					t.Fatalf("code %#x, create %d: %v", code, part, err)
				}
				s.expect(want)
				if u := s.Usage(); u.Refused == 0 || u.FreeObjects != 0 || u.FreeBytes != 0 {
					t.Errorf("after a refusal usage is %+v", u)
				}
				change := put("ns/b", s.next(), s.Usage().Profile.SegmentBytes) // Two objects, one of full length.
				s.commit(change)
				want = want.apply([]token.Change{change})
				if u := s.Usage(); u.Refused != 0 || u.FreeObjects == 0 {
					t.Errorf("after a create of that length usage is %+v", u)
				}
				s.collect()
				if got := s.token.Counters().Calls[faulttoken.Login]; got != logins {
					t.Errorf("%d logins", got-logins)
				}
				s.reopen()
				s.expect(want)
				if s.Contains(id) {
					t.Error("the refused commit is there")
				}
			}
		}
	})
}
