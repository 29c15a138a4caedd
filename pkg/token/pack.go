// SPDX-License-Identifier: Apache-2.0

package token

// Pack does one step of making room: what Tidy does, and when nothing is left of
// that, and room is short, one commit that moves records out of segments that are
// mostly empty into a full one, so that those can go. It changes no record. It
// tells whether there is more to do. Where there is room enough, or none to be
// gained, it does nothing. The commit gets the revision that the caller gives it;
// errors are those of Commit.
func (s *Store) Pack(revision func() uint64) (more bool, err error) {
	if s.stale != nil {
		return false, s.staleError()
	}
	if len(s.waste) > 0 || s.bloated() {
		_, err := s.Tidy()
		return true, err
	}
	if len(s.plan) == 0 {
		if s.plan = s.makePlan(); len(s.plan) == 0 {
			s.wanted = room{}
			return false, nil
		}
	}
	moved := s.plan[0]
	s.plan = s.plan[1:]
	changes, err := s.load(moved)
	if err != nil {
		return true, err
	}
	d, err := s.draft(revision(), changes)
	for _, c := range changes {
		clear(c.Record.Data)
	}
	if err != nil {
		return true, err
	}
	if usage := s.Usage(); len(d.unit.parts) > 1 || !s.profile.room(usage.Objects+1, usage.Bytes+d.unit.parts[0].bytes, 0) {
		s.plan, s.wanted = nil, room{}
		return false, nil
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

// haste is how much may be written to gain room.
type haste int

const (
	hasteNone  haste = iota
	hasteCheap       // one segment, if it gains two
	hasteAny         // whatever it takes
)

// hasteFor tells how short something is of which so much is held. From a half
// reserve before the reserve begins what is cheap is done, and when a third of
// the reserve is eaten up, all.
func (p Profile) hasteFor(held, limit int) haste {
	reserve := limit * p.Reserve / p.Objects
	switch eaten := held - (limit - reserve); {
	case limit == 0 || eaten < -reserve/2:
		return hasteNone
	case eaten < reserve/3:
		return hasteCheap
	}
	return hasteAny
}

// enough tells whether a plan gains enough for what it writes.
func (h haste) enough(gain, least, steps int) bool {
	switch h {
	case hasteNone:
		return true
	case hasteCheap:
		return steps == 1 && gain >= 2*least
	}
	return gain >= least
}

// makePlan decides what is to be packed: for each commit the records that it
// moves. A commit without records only lists units that hold nothing any more.
func (s *Store) makePlan() [][]*entry {
	if missing := s.missing(); missing != (room{}) {
		plan := newPacker(s, missing.objects > 0).plan(s.profile.Objects, func(gain room, _ int) bool {
			return gain.objects >= missing.objects && gain.bytes >= missing.bytes
		})
		if len(plan) > 0 {
			return plan
		}
	}
	idle := s.idleRoom()
	objects := s.profile.hasteFor(s.objects-idle.objects, s.profile.Objects)
	bytes := s.profile.hasteFor(s.bytes-idle.bytes, s.profile.StoreBytes)
	if objects != hasteNone || bytes != hasteNone {
		plan := newPacker(s, objects != hasteNone).plan(maxPackingSteps, func(gain room, steps int) bool {
			return objects.enough(gain.objects, 1, steps) && bytes.enough(gain.bytes, s.profile.SegmentBytes/8, steps)
		})
		if len(plan) > 0 {
			return plan
		}
	}
	if s.profile.hasteFor(s.objects, s.profile.Objects) == hasteAny && idle.objects > 1 ||
		s.profile.hasteFor(s.bytes, s.profile.StoreBytes) == hasteAny && idle.bytes > 2*s.overhead() {
		return [][]*entry{nil}
	}
	return nil
}

// missing is what a change that was refused lacks, besides what the next commits
// give back.
func (s *Store) missing() room {
	if s.wanted == (room{}) {
		return s.wanted
	}
	u, p := s.Usage(), s.profile
	lack := room{objects: u.Objects - u.SpareObjects + s.wanted.objects - (p.Objects - p.Reserve)}
	if p.StoreBytes > 0 {
		lack.bytes = u.Bytes - u.SpareBytes + s.wanted.bytes - (p.StoreBytes - p.StoreBytes*p.Reserve/p.Objects)
	}
	return room{max(lack.objects, 0), max(lack.bytes, 0)}
}

// idleRoom is what units without a live record take.
func (s *Store) idleRoom() (r room) {
	for _, u := range s.units {
		if u.live == 0 {
			r = r.add(u.room())
		}
	}
	return r
}
