// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// rememberedDeletions is how many of the last destroyed commits the list of
// superseded ones goes on naming: a power cut undoes the last destroys only.
const rememberedDeletions = 16

// garbage is what has no say any more on the token, and what a power cut can bring
// back.
type garbage struct {
	// obsolete is to be destroyed, in this order.
	obsolete []obsolete
	// recentlyDeleted is the ids of the last superseded commits that were destroyed. A
	// power cut can bring one back, so the head still lists them. The first ones,
	// inherited, were destroyed before the store was opened, in an unknown order.
	recentlyDeleted []uint64
	inherited       int
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
	o := obsolete{id: c.id, superseded: true}
	for _, p := range c.parts[from:] {
		o.objects = append(o.objects, p.object)
	}
	g.obsolete = append(g.obsolete, o)
}

// appendSuperseded adds the ids that the next commit has to list in any case.
func (g *garbage) appendSuperseded(ids []uint64) []uint64 {
	ids = append(ids, g.recentlyDeleted...)
	for _, o := range g.obsolete {
		if o.superseded {
			ids = append(ids, o.id)
		}
	}
	return ids
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

// deleted remembers a superseded commit that is no longer on the token. What was
// inherited is forgotten when enough others were destroyed after it.
func (g *garbage) deleted(id uint64) {
	g.recentlyDeleted = append(g.recentlyDeleted, id)
	if len(g.recentlyDeleted)-g.inherited >= rememberedDeletions {
		g.recentlyDeleted = slices.Delete(g.recentlyDeleted, 0, len(g.recentlyDeleted)-rememberedDeletions)
		g.inherited = 0
	}
}

// inherit remembers the commits, by ascending id, that the head lists and the token
// does not hold. Any of them may be the one that was destroyed last. It leaves
// space in the list for as many as have to be destroyed until they are forgotten.
func (g *garbage) inherit(gone []uint64) {
	g.recentlyDeleted = gone[max(0, len(gone)-(maxSuperseded-rememberedDeletions)):]
	g.inherited = len(g.recentlyDeleted)
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
		if err := s.destroy(o.Object); err != nil {
			return fmt.Errorf("destroying object %q: %w", o.Label, err)
		}
		s.space = s.space.sub(space{1, o.bytes})
		next.objects = next.objects[1:]
	}
	if len(next.objects) == 0 {
		if next.superseded {
			s.garbage.deleted(next.id)
		}
		s.garbage.obsolete = s.garbage.obsolete[1:]
	}
	return nil
}

// destroy succeeds too if the object turns out to be gone.
func (s *Store) destroy(o pkcs11.Object) error {
	err := s.dev.Destroy(o.Handle)
	if err == nil {
		return nil
	}
	objects, listErr := s.dev.Objects()
	if listErr == nil && !slices.ContainsFunc(objects, func(other pkcs11.Object) bool { return other.Handle == o.Handle }) {
		return nil
	}
	return err
}
