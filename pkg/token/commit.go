// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

const (
	// maxKeyBytes limits keys and addresses.
	maxKeyBytes  = 1024
	maxMetaBytes = maxDescriptionBytes - 2*(maxKeyBytes+2)
	// maxSuperseded limits the list of superseded units in a commit.
	maxSuperseded = 64
	// graveyardSize is how many of the last destroyed units the list goes on
	// naming: a power cut undoes the last destroys only.
	graveyardSize = 16
)

// Commit makes changes durable, all or none. Their revisions are strictly
// ascending, above Reserved as it was when the store was opened and above those of
// earlier calls, failed ones included; the last one is the id of the commit. It costs one create, and more only if
// the changes together are longer than a segment.
//
// TooLarge, Full, LogFailed Invalid and Internal are found before the token
// is touched. After Full there may be room once CollectGarbage and Compact have nothing more
// to do. After OutcomeUnknown or an error of the device every call fails until
// the store is opened again; an error of the device means that nothing was
// changed.
func (s *Store) Commit(changes []Change) error {
	if s.stale != nil {
		return s.staleError()
	}
	if len(changes) == 0 {
		return nil
	}
	if err := s.check(changes); err != nil {
		return err
	}
	d, err := s.draft(changes[len(changes)-1].Record.Revision, changes)
	if err != nil {
		return err
	}
	if err := s.checkRoom(s.demandOf(changes, d.unit)); err != nil {
		return err
	}
	if err := s.make(d); err != nil {
		return err
	}
	s.plan, s.wanted = nil, demand{}
	return nil
}

// draft is a commit before it is made.
type draft struct {
	unit       *unit
	segments   [][]byte
	superseded []*unit
	records    []placed
}

// draft encodes and seals a commit.
func (s *Store) draft(id uint64, changes []Change) (*draft, error) {
	superseded := s.idle()
	p := s.outline(changes, superseded)
	pieces := p.encode(id, s.profile.SegmentBytes-sealOverhead)
	for _, r := range p.records {
		if r.length > s.profile.RecordBytes {
			return nil, s.tooLarge(r.Record.Key, r.length)
		}
	}
	if len(pieces) > maxParts {
		return nil, errorf(TooLarge, "the change takes %d objects, and the format allows %d", len(pieces), maxParts)
	}
	u := &unit{id: id}
	var segments [][]byte
	u.unit, segments = s.keys.seal(id, pieces)
	start := 0
	for i, piece := range pieces {
		o := object{pkcs11.Object{Label: segmentLabel(id, uint16(i)), Application: application}, len(segments[i])}
		u.parts = append(u.parts, part{o, start, len(piece)})
		start += len(piece)
		clear(piece)
	}
	return &draft{u, segments, superseded, p.records}, nil
}

// make writes a commit, to the shadow and then to the token, and enters it.
func (s *Store) make(d *draft) error {
	u := d.unit
	if err := s.noteUnit(u, d.segments); err != nil {
		return err
	}
	s.reserved = max(s.reserved, u.id)
	if err := s.write(u, d.segments); err != nil {
		return err
	}
	for _, old := range d.superseded {
		s.supersede(old)
	}
	s.units = append(s.units, u)
	for _, r := range d.records {
		s.place(u, r)
	}
	for _, r := range d.records {
		s.settle(r.Record.Key)
	}
	return nil
}

// check finds what is wrong with changes by themselves.
func (s *Store) check(changes []Change) error {
	last := s.attempted
	for _, c := range changes {
		r := c.Record
		switch {
		case r.Revision <= last:
			return errorf(Internal, "revision %d of record %q is not above %d", r.Revision, r.Key, last)
		case r.Key == "" || len(r.Key) > maxKeyBytes || len(r.Address) > maxKeyBytes:
			return errorf(Invalid, "record %q: its key and address may have 1 to %d bytes", r.Key, maxKeyBytes)
		case r.DataRevision > r.Revision:
			return errorf(Internal, "record %q: its data revision %d is above its revision %d", r.Key, r.DataRevision, r.Revision)
		}
		last = r.Revision
		if length := len(r.Data); length > s.profile.RecordBytes {
			return s.tooLarge(r.Key, length)
		}
		if len(r.Meta) > maxMetaBytes {
			return errorf(TooLarge, "record %q has %d bytes of metadata, and the format allows %d", r.Key, len(r.Meta), maxMetaBytes)
		}
	}
	return nil
}

func (s *Store) tooLarge(key string, length int) error {
	return errorf(TooLarge, "record %q takes %d bytes, and a token of profile %s holds at most %d in one record", key, length, s.profile.Name, s.profile.RecordBytes)
}

// idle are the units without a live record that no commit lists yet, as many
// as the next one may list. They could be listed by the very commit that takes
// their last record; but tokens lose the last create, and then the old record is
// better than none.
func (s *Store) idle() []*unit {
	free := maxSuperseded - len(s.graveyard)
	for _, w := range s.waste {
		if w.superseded {
			free--
		}
	}
	var idle []*unit
	for _, u := range s.units {
		if u.live == 0 && len(idle) < free {
			idle = append(idle, u)
		}
	}
	return idle
}

// outline is the payload of a commit with which these units are superseded.
func (s *Store) outline(changes []Change, superseded []*unit) *payload {
	remaining := slices.DeleteFunc(slices.Clone(s.units), func(u *unit) bool { return slices.Contains(superseded, u) })
	p := &payload{live: uint64(len(remaining)), digest: digestOf(idsOf(remaining))}
	p.superseded = append(idsOf(superseded), s.graveyard...)
	for _, w := range s.waste {
		if w.superseded {
			p.superseded = append(p.superseded, w.id)
		}
	}
	slices.SortFunc(p.superseded, func(a, b uint64) int { return cmp.Compare(b, a) })
	for _, c := range changes {
		p.records = append(p.records, placed{Change: c})
	}
	return p
}

// write creates the objects of a unit. The commit segment is the last one, and
// its creation the commit.
func (s *Store) write(u *unit, segments [][]byte) error {
	s.attempted = u.id
	for i := len(segments) - 1; i >= 0; i-- {
		p := &u.parts[i]
		handle, err := s.dev.Create(p.Label, p.Application, segments[i])
		if err != nil {
			handle, err = s.resolve(u, i, err)
		}
		if err != nil {
			return err
		}
		p.Handle = handle
		s.objects++
		s.count(p.bytes)
	}
	return nil
}

// resolve finds out what became of a part whose creation failed.
//
// A listing that shows the object is proof. One that does not is none, for some
// modules list from memory; unless the token refused the object for its size.
// Then the commit was not made; its id goes on the list of superseded units, so
// that it never will be.
func (s *Store) resolve(u *unit, i int, failure error) (pkcs11.Handle, error) {
	p := u.parts[i]
	class := pkcs11.ClassOf(failure)
	if class != pkcs11.ClassReconnect && class != pkcs11.ClassRelogin {
		objects, err := s.dev.Objects()
		if handle, ok := s.find(objects, p.Label); ok {
			return handle, nil
		}
		reason := map[pkcs11.Class]Reason{pkcs11.ClassFull: Full, pkcs11.ClassTooLarge: TooLarge}[class]
		if err == nil && reason != 0 {
			if err := s.noteFate(u, entryFailed); err != nil {
				return 0, s.unknown(u, errors.Join(failure, err))
			}
			s.giveUp(u, i)
			return 0, &Error{Reason: reason, Message: fmt.Sprintf("the token refused object %q of %d bytes, which fits profile %s: it holds less than that. Choose a smaller profile", p.Label, p.bytes, s.profile.Name), Err: failure}
		}
	}
	if i > 0 {
		if err := s.noteFate(u, entryFailed); err != nil {
			return 0, s.unknown(u, errors.Join(failure, err))
		}
		s.stale = failure
		return 0, fmt.Errorf("nothing was changed: creating object %q: %w", p.Label, failure)
	}
	if err := s.noteFate(u, entryUnsettled); err != nil {
		// Then recovery makes the commit, if the token has not.
		failure = errors.Join(failure, err)
	}
	return 0, s.unknown(u, failure)
}

func (s *Store) unknown(u *unit, failure error) error {
	s.stale = failure
	return &Error{Reason: OutcomeUnknown, Message: fmt.Sprintf("it is not known whether commit %016x was made", u.id), Err: failure}
}

// find looks for an object that the store has just tried to create.
func (s *Store) find(objects []pkcs11.Object, label string) (pkcs11.Handle, bool) {
	known := map[pkcs11.Handle]bool{}
	for _, w := range s.waste {
		for _, o := range w.objects {
			known[o.Handle] = true
		}
	}
	for _, o := range objects {
		if o.Label == label && o.Application == application && !known[o.Handle] {
			return o.Handle, true
		}
	}
	return 0, false
}

// giveUp leaves the parts after i of a commit that was not made to CollectGarbage.
func (s *Store) giveUp(u *unit, i int) {
	w := waste{id: u.id, superseded: true}
	for _, p := range u.parts[i+1:] {
		w.objects = append(w.objects, p.object)
	}
	s.waste = append(s.waste, w)
}
