// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/pkg/token/wal"
	"j5t.io/hsm/test/framework/faultfs"
	"j5t.io/hsm/test/framework/faulttoken"
)

const owner = `,"ownerReferences":"of the old cluster"`

// owned is a record that belongs to something in its cluster.
func owned(key string, revision uint64, size int) token.Change {
	c := put(key, revision, size)
	c.Record.Meta = append(c.Record.Meta, owner...)
	return c
}

func strip(r token.Record) ([]byte, error) { return bytes.TrimSuffix(r.Meta, []byte(owner)), nil }

func adoption(from string, to string) token.Options {
	return token.Options{StoreID: to, Adopt: &token.Adoption{
		From: from, Strip: strip, Revision: func(above uint64) uint64 { return above + 1 },
	}}
}

// sameButStripped compares what belongs to the secrets themselves.
func sameButStripped(got, want content, stripped bool) bool {
	for key, w := range want {
		g, ok := got[key]
		meta := w.Meta
		if stripped {
			meta, _ = strip(w)
		}
		if !ok || !bytes.Equal(g.Data, w.Data) || g.DataRevision != w.DataRevision || g.Address != w.Address || !bytes.Equal(g.Meta, meta) {
			return false
		}
	}
	return len(got) == len(want)
}

func ownedStore(t *testing.T, p faulttoken.Profile) (*stick, content) {
	t.Helper()
	s := provisionWithLog(t, p)
	s.token.Put(others)
	s.commit(owned("ns/a", 10, 10), put("ns/b", 11, 20))
	s.commit(owned("ns/c", 12, 3000))
	s.commit(put("ns/d", 13, 30))
	s.commit(del("ns/b", 14))
	return s, read(t, s.Store)
}

// TestAdoption brings a token to another cluster, and back.
func TestAdoption(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		old, want := ownedStore(t, p)

		// To look at it first changes nothing, and says what would go.
		before := old.token.Flash()
		look, err := (&stick{t: t, token: old.token}).open(token.Options{StoreID: old.id})
		if err != nil {
			t.Fatal(err)
		}
		var owned []string
		for r := range look.Records() {
			if meta, _ := strip(r); !bytes.Equal(meta, r.Meta) {
				owned = append(owned, r.Key)
			}
		}
		if !slices.Equal(owned, []string{"ns/a", "ns/c"}) || !sameFlash(before, old.token.Flash()) {
			t.Errorf("it would strip %v", owned)
		}

		next := &stick{t: t, token: old.token, id: token.NewStoreID(), dir: t.TempDir()}
		if _, err := next.open(token.Options{StoreID: next.id}); token.ReasonOf(err) != token.Foreign {
			t.Errorf("unasked, the other cluster got %v", err)
		}
		if _, err := next.open(adoption(token.NewStoreID(), next.id)); token.ReasonOf(err) != token.Foreign {
			t.Errorf("asked for a third store, the other cluster got %v", err)
		}
		if !sameFlash(before, old.token.Flash()) {
			t.Error("a refused token was changed")
		}
		for round := range 2 { // The second time it is there already.
			head := old.Head()
			store, err := next.open(adoption(old.id, next.id))
			if err != nil {
				t.Fatal(err)
			}
			next.Store = store
			if store.ID() != next.id || !sameButStripped(read(t, store), want, true) || round > 0 && store.Head() != head {
				t.Errorf("adopted, store %s holds %v", store.ID(), read(t, store))
			}
			old.Store = store
		}
		c := put("ns/e", next.Head()+1, 100)
		next.commit(c)
		want = want.apply([]token.Change{c})
		for range 2 {
			next.reopen()
			next.compact()
			if got := read(t, next.Store); !sameButStripped(got, want, true) {
				t.Errorf("after a restart the adopted store holds %v", got)
			}
		}
		if next.Usage().Quarantined != 0 || next.Usage().Objects != len(next.token.Flash()) {
			t.Errorf("usage is %+v", next.Usage())
		}
		if p.Name == faulttoken.Pico66.Name { // Without the log, too.
			next.expectWhole("adopted", read(t, next.Store))
		}

		// The old cluster has lost it, though its log holds everything.
		before = old.token.Flash()
		if _, err := old.open(token.Options{StoreID: old.id}); token.ReasonOf(err) != token.Foreign || !sameFlash(before, old.token.Flash()) {
			t.Errorf("the old cluster got %v", err)
		}
		back := token.NewStoreID()
		if _, err := old.open(adoption(next.id, back)); err != nil {
			t.Errorf("adopting it back gave %v", err)
		}
		old.id = back
		old.reopen()
		if got := read(t, old.Store); !sameButStripped(got, want, true) {
			t.Errorf("back again it holds %v", got)
		}
	})
}

// TestAdoptionOfAFullToken makes space while it strips.
func TestAdoptionOfAFullToken(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	s.realRevisions()
	want := newContent()
	for i := 0; ; i++ {
		c, err := s.try(func(revision uint64) token.Change { return owned(fmt.Sprintf("ns/%d", i), revision, 900) })
		if token.ReasonOf(err) == token.Full {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		want = want.apply([]token.Change{c})
		s.compact()
	}
	s.dir = t.TempDir()
	store, err := s.open(adoption(s.id, token.NewStoreID()))
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, store); !sameButStripped(got, want, true) {
		t.Errorf("it holds %v", got)
	}
}

func TestAdoptionFails(t *testing.T) {
	t.Parallel()
	s, want := ownedStore(t, faulttoken.Pico66)
	if _, err := s.open(adoption(s.id, "not an id")); err == nil {
		t.Error("a store got a name that is none")
	}
	o := adoption(s.id, token.NewStoreID())
	refused := errors.New("refused")
	o.Adopt.Strip = func(token.Record) ([]byte, error) { return nil, refused }
	if _, err := s.open(o); !errors.Is(err, refused) {
		t.Errorf("a failed strip gave %v", err)
	}
	s.reopen()
	s.expect(want)
}

// TestAdoptionCrashPoints stops at each step. The token is of the one cluster or
// of the other; the same adoption, asked for again, comes to its end; and the old
// cluster never gets at a token that has changed hands.
func TestAdoptionCrashPoints(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		origin, want := ownedStore(t, p)
		id := token.NewStoreID()
		for _, sc := range scenarios() {
			attempt := func(at stop) (steps, calls int) {
				s := origin.clone()
				disk := &machine{FS: faultfs.New(at.call, at.moment), token: s.token, whole: sc.machine}
				o := adoption(origin.id, id)
				adopter := &stick{t: t, token: s.token, id: id}
				if sc.log {
					adopter.dir = t.TempDir()
					o.Log = wal.New(disk, adopter.logPath())
				}
				session, err := s.token.Open()
				if err != nil {
					t.Fatal(err)
				}
				s.token.Forget(sc.forgets)
				s.token.CutAt(at.step, at.after)
				_, err = token.Open(session, o)
				steps, calls = s.token.Steps(), disk.Calls()
				if !s.token.Cut() {
					s.token.PowerCut()
				}
				disk.Stop()
				countCrashPoint(t, func() string {
					what := fmt.Sprintf("%s, %s, stop %+v of %d, %d: ", p.Name, sc.name, at, steps, calls)
					// Either cluster may look first.
					mine, foreign := adopter.open(token.Options{StoreID: id})
					if err == nil && foreign != nil {
						return fmt.Sprintf("%sit was adopted, and now: %v", what, foreign)
					}
					_, lost := (&stick{t: t, token: s.token}).open(token.Options{StoreID: origin.id})
					// What the token lost is in the log of the new cluster alone.
					torn := sc.forgets.Creates > 0 && token.ReasonOf(lost) == token.Corrupt
					if foreign == nil && token.ReasonOf(lost) != token.Foreign || foreign != nil && lost != nil && !torn {
						return fmt.Sprintf("%snew cluster: %v; old cluster: %v", what, foreign, lost)
					}
					if foreign == nil {
						if got, err := readAll(mine); err != nil || !sameButStripped(got, want, true) {
							return fmt.Sprintf("%sadopted, it holds %v, %v", what, got, err)
						}
					}
					for range 2 {
						store, err := adopter.open(adoption(origin.id, id))
						if err != nil {
							return fmt.Sprintf("%sadopting it again: %v", what, err)
						}
						if got, err := readAll(store); err != nil || !sameButStripped(got, want, true) {
							return fmt.Sprintf("%sadopted again, it holds %v, %v", what, got, err)
						}
					}
					if _, err := s.open(token.Options{StoreID: origin.id}); token.ReasonOf(err) != token.Foreign {
						return fmt.Sprintf("%sat last the old cluster got %v", what, err)
					}
					return ""
				}())
				return steps, calls
			}
			steps, calls := attempt(stop{})
			for step := 1; step <= steps; step++ {
				attempt(stop{step: step})
				attempt(stop{step: step, after: true})
			}
			for call := 1; sc.machine && call <= calls; call++ {
				for _, moment := range []faultfs.Moment{faultfs.Before, faultfs.Halfway, faultfs.After} {
					attempt(stop{call: call, moment: moment})
				}
			}
		}
	})
}
