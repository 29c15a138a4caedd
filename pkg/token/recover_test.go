// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

func sameFlash(a, b []faulttoken.Object) bool {
	return slices.EqualFunc(a, b, func(a, b faulttoken.Object) bool {
		return a.Label == b.Label && a.Application == b.Application && bytes.Equal(a.Value, b.Value) && a.Broken == b.Broken
	})
}

// damaged is what can become of a segment.
var damaged = map[string]func(*faulttoken.Object) bool{
	"lost":           func(*faulttoken.Object) bool { return false },
	"half destroyed": func(o *faulttoken.Object) bool { o.Broken = true; return true },
	"flipped": func(o *faulttoken.Object) bool {
		if len(o.Value) > 0 {
			o.Value[len(o.Value)/2] ^= 4
		}
		return true
	},
	"cut":     func(o *faulttoken.Object) bool { o.Value = o.Value[:max(0, len(o.Value)-1)]; return true },
	"emptied": func(o *faulttoken.Object) bool { o.Value = nil; return true },
	"zeroed":  func(o *faulttoken.Object) bool { clear(o.Value); return true },
}

// TestDamageIsNoticed damages each object of a store in each way. Either the
// store does not need it, or nothing is served, and nothing is changed.
func TestDamageIsNoticed(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	s.commit(put("ns/a", 1, 10), put("ns/b", 2, 10))
	s.commit(put("ns/c", 3, 10))
	s.commit(put("ns/long", 4, 9000))
	s.commit(put("ns/c", 5, 10)) // commit 3 is dead
	s.commit(put("ns/d", 6, 10)) // commit 3 is superseded
	s.commit(put("ns/a", 7, 10))
	want := read(t, s.Store)
	unneeded := "segment-0000000000000003"
	newest := "segment-0000000000000007"
	older := newContent() // as the last commit but one left it
	for key, r := range want {
		older[key] = r
	}
	older["ns/a"] = put("ns/a", 1, 10).Record

	for _, o := range s.token.Flash() {
		if o.Label == keyring {
			continue
		}
		for name, damage := range damaged {
			c := &stick{t: t, token: s.token.Clone(), id: s.id}
			c.token.Change(o.Label, damage)
			before := c.token.Flash()
			store, err := c.open(token.Options{StoreID: s.id})
			switch {
			case o.Label == unneeded && name != "lost" && err == nil:
				if got := read(t, store); !got.equal(want) {
					t.Errorf("%s %s: the store holds %v", o.Label, name, got)
				}
				c.Store = store
				c.collect()
				c.reopen()
				c.expect(want)
				continue
			case o.Label == unneeded && name == "lost" && err == nil && read(t, store).equal(want):
				continue
			case o.Label == newest && name == "lost":
				// Only a log can know of a commit that the token lost whole.
				if err != nil || !read(t, store).equal(older) {
					t.Errorf("%s %s: %v", o.Label, name, err)
				}
				continue
			case token.ReasonOf(err) != token.Corrupt:
				t.Errorf("%s %s: opening gave %v", o.Label, name, err)
			}
			if !sameFlash(before, c.token.Flash()) {
				t.Errorf("%s %s: the token was changed", o.Label, name)
			}
		}
	}
}

// TestMixedUpSegments moves authentic segments to where they do not belong.
func TestMixedUpSegments(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	s.commit(put("ns/a", 1, 10))
	s.commit(put("ns/a", 2, 10))
	s.commit(put("ns/long", 3, 9000))
	value := func(label string) []byte {
		for _, o := range s.token.Flash() {
			if o.Label == label {
				return o.Value
			}
		}
		t.Fatalf("no object %q", label)
		return nil
	}
	other := provision(t, faulttoken.Pico66)
	other.commit(put("ns/a", 1, 10))
	for name, change := range map[string]struct{ from, to string }{
		"an older value":      {"segment-0000000000000001", "segment-0000000000000002"},
		"a later commit":      {"segment-0000000000000002", "segment-0000000000000009"},
		"parts exchanged":     {"segment-0000000000000003-0001", "segment-0000000000000003-0002"},
		"a part as a commit":  {"segment-0000000000000003-0001", "segment-0000000000000003"},
		"a keyring as commit": {keyring, "segment-0000000000000002"},
	} {
		c := s.token.Clone()
		c.Change(change.to, func(*faulttoken.Object) bool { return false })
		c.Put(faulttoken.Object{Label: change.to, Application: application, Value: value(change.from)})
		if _, err := (&stick{t: t, token: c}).open(token.Options{StoreID: s.id}); token.ReasonOf(err) != token.Corrupt {
			t.Errorf("%s: opening gave %v", name, err)
		}
	}
	for _, label := range []string{"segment-0000000000000003-0003", "segment-0000000000000002-0001"} {
		c := s.token.Clone()
		c.Put(faulttoken.Object{Label: label, Application: application, Value: value("segment-0000000000000003-0001")})
		store, err := (&stick{t: t, token: c}).open(token.Options{StoreID: s.id})
		if err != nil || !slices.Equal(store.RecoveryReport().Quarantined, []string{label}) || store.Usage().Quarantined != 1 {
			t.Errorf("a part too many, %s: opening gave %v, %+v", label, err, store)
		}
	}
	for _, label := range []string{"segment-0000000000000004", "segment-0000000000000009", "segment-0000000000000009-0001"} {
		c := s.token.Clone()
		c.Put(faulttoken.Object{Label: label, Application: application, Value: other.token.Flash()[1].Value})
		if _, err := (&stick{t: t, token: c}).open(token.Options{StoreID: s.id}); token.ReasonOf(err) != token.Corrupt || !strings.Contains(err.Error(), other.id) {
			t.Errorf("a segment of another store as %q: opening gave %v", label, err)
		}
	}
}

// TestLeftovers has on the token what commits that were cut short, or repaired
// twice, leave behind.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	origin := provision(t, faulttoken.Pico66)
	origin.commit(put("ns/a", 1, 10))
	// Two pasts of the same commit id. In one of them it was cut short.
	made := func(size int) (objects []faulttoken.Object, want content) {
		s := &stick{t: t, token: origin.token.Clone(), id: origin.id}
		s.reopen()
		s.commit(put("ns/long", 9, size))
		return slices.DeleteFunc(s.token.Flash(), func(o faulttoken.Object) bool {
			return !strings.HasPrefix(o.Label, "segment-0000000000000009")
		}), read(t, s.Store)
	}
	whole, want := made(9000)
	cutShort, _ := made(9500)
	cutShort = slices.DeleteFunc(cutShort, func(o faulttoken.Object) bool { return o.Label == "segment-0000000000000009" })
	orphans := []faulttoken.Object{
		{Label: "segment-0000000000000008-0001", Application: application, Value: cutShort[0].Value},
		{Label: "segment-00000000000000ff-0003", Application: application, Broken: true},
	}
	for name, order := range map[string][][]faulttoken.Object{
		"the whole commit first":  {whole, cutShort, whole, orphans},
		"the whole commit last":   {orphans, cutShort, cutShort, whole},
		"the whole commit within": {cutShort, whole, cutShort, orphans},
	} {
		s := &stick{t: t, token: origin.token.Clone(), id: origin.id}
		objects := slices.Concat(order...)
		for _, o := range objects {
			s.token.Put(o)
		}
		s.reopen()
		s.expect(want)
		if got, want := s.Usage().Superseded, len(objects)-len(whole); got != want {
			t.Errorf("%s: %d objects are to be destroyed, expected %d", name, got, want)
		}
		s.collect()
		s.reopen()
		s.expect(want)
		if got, want := len(s.token.Flash()), len(origin.token.Flash())+len(whole); got != want {
			t.Errorf("%s: %d objects are left, expected %d", name, got, want)
		}
	}
}

// TestForeignObjects are counted and never touched.
func TestForeignObjects(t *testing.T) {
	t.Parallel()
	tok := faulttoken.New(faulttoken.Pico66)
	foreign := []faulttoken.Object{
		{Label: "certificate", Application: "OpenVPN", Value: []byte("x")},
		{Label: "segment-0000000000000001", Application: "someone else", Value: []byte("y")},
		{Label: "broken", Broken: true},
		{Label: "app/password", Application: "hsm-secrets-operator", Value: []byte("z")},
		{Label: "app/_metadata", Application: "hsm-secrets-operator", Value: []byte("{}")},
	}
	for _, o := range foreign {
		tok.Put(o)
	}
	s := &stick{t: t, token: tok}
	store, err := s.open(token.Options{Provision: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Store, s.id = store, store.ID()
	for revision := uint64(1); revision < 40; revision++ {
		s.commit(put("ns/a", revision, 10))
		s.collect()
		s.reopen()
	}
	if u := s.Usage(); u.Foreign != 5 || u.Legacy != 2 || u.Objects != len(tok.Flash()) {
		t.Errorf("usage is %+v", u)
	}
	left := slices.DeleteFunc(tok.Flash(), func(o faulttoken.Object) bool { return o.Application == application })
	if !sameFlash(left, foreign) {
		t.Errorf("of %v there are left %v", foreign, left)
	}
}

// TestUndoneDestroys: a power cut brings back objects whose destruction said
// CKR_OK, whole or without their value. They have no say.
func TestUndoneDestroys(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		for _, broken := range []bool{false, true} {
			s := provision(t, p)
			s.token.Forget(faulttoken.Forgets{Destroys: 3, Broken: broken})
			want := newContent()
			for revision := uint64(10); revision < 200; revision += 10 {
				changes := []token.Change{put("ns/a", revision, 10), put("ns/b", revision+1, 10)}
				if revision%30 == 0 {
					changes = []token.Change{del("ns/a", revision), put("ns/long", revision+1, 5000)}
				}
				s.commit(changes...)
				want = want.apply(changes)
				s.collect()
				if revision%70 == 0 {
					s.token.PowerCut()
					s.reopen()
					s.expect(want)
				}
			}
			s.token.PowerCut()
			s.reopen()
			s.expect(want)
		}
	})
}

// TestDestroyUndoneAfterRestart: a power cut undoes the destroy of an old commit,
// though the agent was started anew and has made a commit since.
func TestDestroyUndoneAfterRestart(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		s := provision(t, p)
		s.token.Forget(faulttoken.Forgets{Destroys: 3})
		want := newContent()
		revision := uint64(10)
		change := func(change func(revision uint64) token.Change) {
			t.Helper()
			changes := []token.Change{change(revision)}
			s.commit(changes...)
			want = want.apply(changes)
			revision++
		}
		set := func(key string) func(uint64) token.Change {
			return func(revision uint64) token.Change { return put(key, revision, 10) }
		}
		old := []string{"ns/first", "ns/second", "ns/third"} // Two of their places will be taken again.
		for _, key := range old {
			change(set(key))
		}
		for range 20 { // Their graves come to be younger, and their ids higher.
			change(set("ns/new"))
			s.collect()
		}
		for _, key := range old {
			change(set(key))
		}
		change(set("ns/new"))
		s.collect()
		s.reopen()
		change(set("ns/new"))
		change(set("ns/new")) // The list of the head before is gone with it.
		s.token.PowerCut()
		s.reopen()
		s.expect(want)

		// Once enough others were destroyed, the list is short again.
		for range 20 {
			change(set("ns/new"))
			s.collect()
		}
		s.reopen()
		s.expect(want)
	})
}
