// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// CollectGarbage destroys one object that has no say any more: of a unit that the head
// lists as superseded, or of a commit that was never made. It tells whether
// there is more to do. The oldest unit goes first, its commit segment before its
// other parts; stopped anywhere, it leaves a whole store. When there is none
// left, it shortens a shadow that has grown.
func (s *Store) CollectGarbage() (more bool, err error) {
	more, err = s.collectStep()
	return more, housekeeping("collecting garbage", err)
}

func (s *Store) collectStep() (more bool, err error) {
	if s.stale != nil {
		return false, s.staleError()
	}
	if len(s.waste) > 0 {
		if err := s.destroyNext(); err != nil {
			return true, err
		}
		return len(s.waste) > 0 || s.bloated(), nil
	}
	if s.bloated() {
		return false, s.compactShadow()
	}
	return false, nil
}

// destroyNext destroys the next object of the waste.
func (s *Store) destroyNext() error {
	w := &s.waste[0]
	if len(w.objects) > 0 {
		o := w.objects[0]
		if err := s.destroy(o.Object); err != nil {
			return fmt.Errorf("destroying object %q: %w", o.Label, err)
		}
		s.objects--
		s.count(-o.bytes)
		w.objects = w.objects[1:]
	}
	if len(w.objects) == 0 {
		if w.superseded {
			s.bury(w.id)
		}
		s.waste = s.waste[1:]
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

// supersede takes a unit, now listed by the head, out of the store.
func (s *Store) supersede(u *unit) {
	s.units = slices.DeleteFunc(s.units, func(other *unit) bool { return other == u })
	for _, key := range u.puts {
		if s.puts[key]--; s.puts[key] == 0 {
			delete(s.puts, key)
		}
		s.settle(key)
	}
	w := waste{id: u.id, superseded: true}
	for _, p := range u.parts {
		w.objects = append(w.objects, p.object)
	}
	s.waste = append(s.waste, w)
}

// bury remembers a superseded unit that is no longer on the token. What was
// inherited is forgotten when enough others were destroyed after it.
func (s *Store) bury(id uint64) {
	s.graveyard = append(s.graveyard, id)
	if len(s.graveyard)-s.inherited >= graveyardSize {
		s.graveyard = slices.Delete(s.graveyard, 0, len(s.graveyard)-graveyardSize)
		s.inherited = 0
	}
}

// inherit remembers the units, by ascending id, that the head lists and the token
// does not hold. Any of them may be the one that was destroyed last. It leaves
// room in the list for as many as have to be destroyed until they are forgotten.
func (s *Store) inherit(gone []uint64) {
	s.graveyard = gone[max(0, len(gone)-(maxSuperseded-graveyardSize)):]
	s.inherited = len(s.graveyard)
}
