// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// maxStuckSuperseded is how many commits with stuck objects the list of superseded ones
// names, beside those that it names anyway.
const maxStuckSuperseded = 64

// garbage is what has no say any more on the token, and what a power cut can bring
// back.
type garbage struct {
	// obsolete is to be destroyed, in this order: superseded commits by ascending id, so
	// that whoever opens the store next knows which of them went last.
	obsolete []obsolete
	// recentlyDeleted is the superseded commits that were destroyed last.
	recentlyDeleted deletions
	// stuck is what the token refused to destroy since the store was opened.
	stuck []stuckObject
}

// stuckObject is an object that cannot be destroyed, though the token answers: on some
// tokens a power cut between the two halves of a destroy leaves one. It takes its place
// on the token for good, and nobody waits for it. The next opening tries again, once.
type stuckObject struct {
	label      string
	id         uint64
	superseded bool // the head lists its commit, for the object may become readable again
}

// obsolete is the objects of one commit that is superseded, or was never made.
type obsolete struct {
	id         uint64
	superseded bool // the head lists it
	objects    []object
}

// newObsolete is objects whose lengths are not known: they count as the longest.
func newObsolete(id uint64, superseded bool, objects []segmentObject, p Profile) obsolete {
	o := obsolete{id: id, superseded: superseded}
	for _, s := range objects {
		o.objects = append(o.objects, object{s.Object, p.SegmentBytes})
	}
	return o
}

func (o obsolete) bytes() (n int) {
	for _, object := range o.objects {
		n += object.bytes
	}
	return n
}

// add leaves the parts of a commit from one on to the collector.
func (g *garbage) add(c *commit, from int) {
	for i := range g.stuck {
		g.stuck[i].superseded = g.stuck[i].superseded || g.stuck[i].id == c.id
	}
	o := obsolete{id: c.id, superseded: true}
	for _, p := range c.parts[from:] {
		o.objects = append(o.objects, p.object)
	}
	g.obsolete = append(g.obsolete, o)
	slices.SortStableFunc(g.obsolete, func(a, b obsolete) int { return cmp.Compare(a.id, b.id) })
}

// waiting is the ids of the superseded commits that are to be destroyed.
func (g *garbage) waiting() (ids []uint64) {
	for _, o := range g.obsolete {
		if o.superseded {
			ids = append(ids, o.id)
		}
	}
	return ids
}

// named is how many ids the next commit has to list in any case, without stuck ones.
func (g *garbage) named() int { return g.recentlyDeleted.count() + len(g.waiting()) }

// superseded is what the next commit has to list, in descending order, when it
// supersedes more commits: an id the more often, the later it is destroyed.
func (g *garbage) superseded(more []uint64) (ids []uint64) {
	groups := append(g.recentlyDeleted.groups(), append(g.waiting(), more...))
	for i, group := range groups {
		for _, id := range group {
			ids = append(ids, slices.Repeat([]uint64{id}, i+1)...)
		}
	}
	ids = g.appendStuck(ids)
	slices.SortFunc(ids, func(a, b uint64) int { return cmp.Compare(b, a) })
	return ids
}

// appendStuck adds the ids of superseded commits of which an object is stuck: of the
// last ones, for the list is not to grow for ever. Without its id an object that cannot
// be read is in quarantine.
func (g *garbage) appendStuck(ids []uint64) []uint64 {
	var stuck []uint64
	for _, o := range slices.Backward(g.stuck) {
		if o.superseded && len(stuck) < maxStuckSuperseded && !slices.Contains(ids, o.id) && !slices.Contains(stuck, o.id) {
			stuck = append(stuck, o.id)
		}
	}
	return append(ids, stuck...)
}

// setAside takes an object that turned out to be stuck out of what is to be destroyed.
func (g *garbage) setAside(from *obsolete, o object) {
	g.stuck = append(g.stuck, stuckObject{o.Label, from.id, from.superseded})
}

// isStuck reports whether an object of a commit is stuck.
func (g *garbage) isStuck(id uint64) bool {
	return slices.ContainsFunc(g.stuck, func(o stuckObject) bool { return o.superseded && o.id == id })
}

// space is what collecting all of it frees.
func (g *garbage) space() (sp space) {
	for _, o := range g.obsolete {
		sp = sp.add(space{len(o.objects), o.bytes()})
	}
	return sp
}

// holds reports whether an object is waiting to be destroyed.
func (g *garbage) holds(handle pkcs11.Handle) bool {
	return slices.ContainsFunc(g.obsolete, func(o obsolete) bool {
		return slices.ContainsFunc(o.objects, func(other object) bool { return other.Handle == handle })
	})
}

// CollectGarbage destroys one object that has no say any more: of a commit that the
// head lists as superseded, or that was never made. It reports whether there is
// more to do. The oldest commit goes first, its commit segment before its other
// parts; stopped anywhere, it leaves a whole store. When there is none left, it
// rewrites a log that has grown. Its error is a HousekeepingError.
func (s *Store) CollectGarbage() (more bool, err error) {
	more, err = s.collectStep()
	return more, housekeeping("collecting garbage", err)
}

func (s *Store) collectStep() (more bool, err error) {
	if s.stale != nil {
		return false, s.staleError()
	}
	if len(s.garbage.obsolete) > 0 {
		if err := s.destroyNext(); err != nil {
			return true, err
		}
		return s.hasGarbage(), nil
	}
	if s.logIsOversized() {
		return false, s.shrinkLog()
	}
	return false, nil
}

func (s *Store) hasGarbage() bool { return len(s.garbage.obsolete) > 0 || s.logIsOversized() }

// destroyNext destroys the next obsolete object.
func (s *Store) destroyNext() error {
	next := &s.garbage.obsolete[0]
	if len(next.objects) > 0 {
		o := next.objects[0]
		stuck, err := s.destroy(o.Object)
		switch {
		case err != nil:
			return fmt.Errorf("destroying object %q: %w", o.Label, err)
		case stuck: // It keeps its slot.
			s.garbage.setAside(next, o)
			s.space = s.space.sub(space{0, o.bytes})
		default:
			s.space = s.space.sub(space{1, o.bytes})
			s.refused = 0
		}
		next.objects = next.objects[1:]
	}
	if len(next.objects) == 0 {
		if next.superseded && !s.garbage.isStuck(next.id) {
			s.garbage.recentlyDeleted.add(next.id)
		}
		s.garbage.obsolete = s.garbage.obsolete[1:]
	}
	return nil
}

// destroy succeeds too if the object turns out to be gone. An object that is still
// there although the token answers is stuck; that is no error.
func (s *Store) destroy(o pkcs11.Object) (stuck bool, err error) {
	if err = s.dev.Destroy(o.Handle); err == nil {
		return false, nil
	}
	objects, listErr := s.dev.Objects()
	if listErr == nil && !slices.ContainsFunc(objects, func(other pkcs11.Object) bool { return other.Handle == o.Handle }) {
		return false, nil
	}
	if listErr == nil && answers(s.dev) {
		return true, nil
	}
	return false, err
}
