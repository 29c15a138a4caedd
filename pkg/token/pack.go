// SPDX-License-Identifier: Apache-2.0

package token

// Compact does one step of making room: what CollectGarbage does, and when nothing is left of
// that, and room is short, one commit that moves records out of segments that are
// mostly empty into a full one, so that those can go. It changes no record. It
// tells whether there is more to do. Where there is room enough, or none to be
// gained, it does nothing. The commit gets the revision that the caller gives it;
// errors are those of Commit.
func (s *Store) Compact(revision func() uint64) (more bool, err error) {
	more, err = s.compactStep(revision)
	return more, housekeeping("compacting", err)
}

func (s *Store) compactStep(revision func() uint64) (more bool, err error) {
	if s.stale != nil {
		return false, s.staleError()
	}
	if len(s.waste) > 0 || s.bloated() {
		_, err := s.collectStep()
		return true, err
	}
	if len(s.plan) == 0 {
		if s.plan = s.makePlan(); len(s.plan) == 0 {
			s.wanted = demand{}
			return false, nil
		}
	}
	more, err = s.move(s.plan[0], revision)
	s.plan = s.plan[1:]
	if err != nil || !more {
		s.plan, s.wanted = nil, demand{}
	}
	return more, err
}

// move commits records once more, as they are. It does nothing if there turns out
// to be too little room for that.
func (s *Store) move(entries []*entry, revision func() uint64) (moved bool, err error) {
	changes, err := s.load(entries)
	if err != nil {
		return false, err
	}
	d, err := s.draft(revision(), changes)
	for _, c := range changes {
		clear(c.Record.Data)
	}
	if err != nil || len(d.unit.parts) > 1 || s.lack(demand{takes: d.unit.room()}, room{}) != (room{}) {
		return false, err
	}
	return true, s.make(d)
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

// makePlan decides what is to be packed: for each commit the records that it
// moves. A commit without records only lists units that hold nothing any more.
func (s *Store) makePlan() [][]*entry {
	idle := s.idleRoom()
	wanted := s.wanted != demand{}
	if missing := s.lack(s.wanted, idle); wanted && missing != (room{}) {
		plan := newPacker(s, missing.objects > 0).plan(s.profile.Objects, func(gain room, _ int) bool {
			return gain.objects >= missing.objects && gain.bytes >= missing.bytes
		})
		if len(plan) > 0 {
			return plan
		}
	}
	objects, bytes := s.profile.hasteFor(s.used().sub(idle))
	if objects != hasteNone || bytes != hasteNone {
		plan := newPacker(s, objects != hasteNone).plan(maxPackingSteps, func(gain room, steps int) bool {
			return objects.enough(gain.objects, 1, steps) && bytes.enough(gain.bytes, s.profile.SegmentBytes/8, steps)
		})
		if len(plan) > 0 {
			return plan
		}
	}
	objects, bytes = s.profile.hasteFor(s.used())
	if (objects == hasteAny || wanted) && idle.objects > 1 || (bytes == hasteAny || wanted) && idle.bytes > 2*s.overhead() {
		return [][]*entry{nil}
	}
	return nil
}
