// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// undoable is how many destroys the format expects a power cut to undo.
const undoable = 16

// remembering is a store without a log, and the objects that were destroyed on it.
type remembering struct {
	*stick
	destroyed []faulttoken.Object // in this order
}

// provisionRoomy is a token on which nothing is ever short of space.
func provisionRoomy(t *testing.T) *remembering {
	t.Helper()
	s := &remembering{stick: provision(t, faulttoken.SoftHSM)}
	s.profile = token.Profile{Name: "roomy", Objects: 4000, Reserve: 15, SegmentBytes: 3900, RecordBytes: 64 << 10}
	s.reopen()
	return s
}

// set puts records with one commit, and returns its label.
func (s *remembering) set(keys ...string) (label string) {
	s.t.Helper()
	var changes []token.Change
	for _, key := range keys {
		changes = append(changes, put(key, s.next(), 10))
	}
	s.commit(changes...)
	return fmt.Sprintf("segment-%016x", s.last)
}

// destroy collects so many objects at most.
func (s *remembering) destroy(most int) {
	s.t.Helper()
	for more := true; more && most > 0; most-- {
		before := s.token.Flash()
		var err error
		if more, err = s.CollectGarbage(); err != nil {
			s.t.Fatal(err)
		}
		left := map[string]bool{}
		for _, o := range s.token.Flash() {
			left[o.Label] = true
		}
		for _, o := range before {
			if !left[o.Label] {
				s.destroyed = append(s.destroyed, o)
			}
		}
	}
}

// expectUndone undoes the last destroys, more and more of them: a store that was whole
// is whole, and holds what it held.
func (s *remembering) expectUndone(what string) {
	s.t.Helper()
	want := read(s.t, s.Store)
	c := s.clone()
	c.profile = s.profile
	for undone := range min(undoable, len(s.destroyed)) {
		o := s.destroyed[len(s.destroyed)-1-undone]
		o.Broken = undone%3 == 1
		c.token.Put(o)
		if undone > 0 && undone%5 > 0 { // of 1, 6, 11, and 16
			continue
		}
		store, err := c.open(token.Options{StoreID: c.id})
		if err != nil {
			s.t.Fatalf("%s, the last %d destroys undone, %s the last of them: %v", what, undone+1, o.Label, err)
		}
		if got := read(s.t, store); !got.equal(want) {
			s.t.Fatalf("%s, the last %d destroys undone: it holds %v", what, undone+1, got)
		}
	}
}

// TestLastDestroysUndone: the head lists as many commits as it may, and all are
// destroyed, old and new ones. A restart and two commits later the last destroys are
// undone.
func TestLastDestroysUndone(t *testing.T) {
	t.Parallel()
	s := provisionRoomy(t)
	lowest := s.set("ns/low")
	var keys []string
	for i := range 46 {
		keys = append(keys, fmt.Sprint("ns/", i))
		s.set(keys[i])
	}
	for range 20 {
		s.set("ns/warm")
		s.destroy(9)
	}
	s.set(keys...)          // As many commits are dead,
	s.set("ns/low")         // and listed,
	lister := s.set("ns/x") // and the one with the lowest id is.
	before := len(s.destroyed)
	s.destroy(100)
	if n := len(s.destroyed) - before; n != 48 || s.destroyed[before].Label != lowest {
		t.Fatalf("%d were destroyed, %s first", n, s.destroyed[before].Label)
	}
	s.reopen()
	s.set("ns/x")
	s.expectUndone("after one commit")
	s.set("ns/y") // lists what listed all of them
	s.destroy(1)
	if last := s.destroyed[len(s.destroyed)-1].Label; last != lister {
		t.Fatalf("%s was destroyed, expected %s", last, lister)
	}
	s.expectUndone("after two commits")
}

// TestLastDestroysUndoneAfterRestarts restarts again and again before enough was
// destroyed to forget what was before. Records that were seldom changed have low ids, and
// their commits are destroyed among the last.
func TestLastDestroysUndoneAfterRestarts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			s := provisionRoomy(t)
			for i := range 120 {
				s.set(fmt.Sprint("ns/cold-", i))
			}
			for restart := range 20 {
				for range random.IntN(4) {
					s.set(fmt.Sprint("ns/hot-", random.IntN(3)))
					s.destroy(random.IntN(3))
				}
				var keys []string
				for range random.IntN(1 + 30*random.IntN(2)) {
					keys = append(keys, fmt.Sprint("ns/cold-", random.IntN(120)))
				}
				if len(keys) > 0 {
					s.set(keys...)
					s.set("ns/hot-0")
				}
				s.destroy(random.IntN(60))
				s.reopen()
				for range random.IntN(3) {
					s.set("ns/hot-1")
				}
				s.expectUndone(fmt.Sprint("restart ", restart))
			}
		})
	}
}
