// SPDX-License-Identifier: Apache-2.0

package token

import "j5t.io/hsm/pkg/token/format"

// compaction is what is planned to make space.
type compaction struct {
	plan   [][]*entry  // the records that each commit moves
	wanted reservation // of the last change that was refused, or of one that may follow
}

// Compact does one step of making space: what CollectGarbage does, and when nothing
// is left of that, and space is short, or would be for one more change like the last
// that added a record, one commit that moves records out of segments
// that are mostly empty into a full one, so that those can go. It changes no record.
// It reports whether there is more to do. Where there is space enough, or none to be
// gained, it does nothing. The commit gets the revision that the caller gives it. Its
// error is a HousekeepingError, around those of CollectGarbage and Commit.
func (s *Store) Compact(revision func() uint64) (more bool, err error) {
	more, err = s.compactStep(revision)
	return more, housekeeping("compacting", err)
}

func (s *Store) compactStep(revision func() uint64) (more bool, err error) {
	if s.stale != nil {
		return false, s.staleError()
	}
	if s.hasGarbage() {
		_, err := s.collectStep()
		return true, err
	}
	c := &s.compaction
	if len(c.plan) == 0 {
		if c.plan = s.planCompaction(); len(c.plan) == 0 {
			c.wanted = reservation{}
			return false, nil
		}
	}
	more, err = s.move(c.plan[0], revision)
	if s.stale == nil && ReasonOf(err) == Full { // The token refused it. There is no space to be gained for now.
		more, err = false, nil
	}
	c.plan = c.plan[1:]
	if err != nil || !more {
		*c = compaction{}
	}
	return more, err
}

// move commits records once more, as they are. It does nothing if there turns out
// to be too little space for that.
func (s *Store) move(entries []*entry, revision func() uint64) (moved bool, err error) {
	changes, err := s.load(entries)
	if err != nil {
		return false, err
	}
	p, err := s.draft(revision(), changes)
	for _, c := range changes {
		clear(c.Record.Data)
	}
	if err != nil || len(p.commit.parts) > 1 || s.shortfall(reservation{takes: p.commit.space()}, space{}) != (space{}) {
		return false, err
	}
	return true, s.make(p)
}

// load reads the data of records, to be committed once more as they are.
func (s *Store) load(entries []*entry) ([]Change, error) {
	var changes []Change
	for _, e := range entries {
		c := e.Change
		if !c.Delete {
			data, err := s.Data(c.Record.Key)
			if err != nil {
				return nil, err
			}
			c.Record.Data = data
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// planCompaction decides what is to be moved: for each commit its records. A commit
// without records only lists commits that are dead.
func (s *Store) planCompaction() [][]*entry {
	dead, wanted := s.deadSpace(), s.compaction.wanted
	isLacking := s.shortfall(wanted, space{}) != (space{})
	if missing := s.shortfall(wanted, dead); missing != (space{}) {
		plan := newPicker(s, missing.objects > 0).plan(s.profile.Objects, func(gain space, _ int) bool {
			return gain.objects >= missing.objects && gain.bytes >= missing.bytes
		})
		if len(plan) > 0 {
			return plan
		}
	}
	objects, bytes := s.profile.urgencyAt(s.space.sub(dead))
	if objects != notUrgent || bytes != notUrgent {
		plan := newPicker(s, objects != notUrgent).plan(maxCompactionSteps, func(gain space, steps int) bool {
			return objects.satisfied(gain.objects, 1, steps) && bytes.satisfied(gain.bytes, s.profile.SegmentBytes/8, steps)
		})
		if len(plan) > 0 {
			return plan
		}
	}
	objects, bytes = s.profile.urgencyAt(s.space)
	if (objects == urgent || isLacking) && dead.objects > 1 || (bytes == urgent || isLacking) && dead.bytes > 2*s.emptySegmentBytes() {
		return [][]*entry{nil}
	}
	return nil
}

// emptySegmentBytes is the length of a segment without records, if it were committed
// now; at most.
func (s *Store) emptySegmentBytes() int {
	return format.EmptySegmentBytes(s.payloadOf(nil, s.supersedable()).Superseded)
}
