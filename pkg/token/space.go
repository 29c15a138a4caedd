// SPDX-License-Identifier: Apache-2.0

package token

// space is objects and bytes on the token.
type space struct{ objects, bytes int }

func (s space) add(other space) space { return space{s.objects + other.objects, s.bytes + other.bytes} }
func (s space) sub(other space) space { return space{s.objects - other.objects, s.bytes - other.bytes} }

// deadSpace is what goes with the next commit: dead commits, and garbage.
func (s *Store) deadSpace() space { return s.spaceOf((*commit).dead) }

// spareSpace is deadSpace, and commits that hold nothing but deletions.
func (s *Store) spareSpace() space { return s.spaceOf(func(c *commit) bool { return c.records == 0 }) }

// spaceOf is the space of garbage, and of some of the commits.
func (s *Store) spaceOf(some func(*commit) bool) space {
	sum := s.garbage.space()
	for _, c := range s.index.commits {
		if some(c) {
			sum = sum.add(c.space())
		}
	}
	return sum
}

// limit is what the token holds when so many objects, and the same part of the
// bytes, are kept back.
func (p Profile) limit(keep int) space {
	if p.StoreBytes == 0 {
		return space{objects: p.Objects - keep}
	}
	return space{p.Objects - keep, p.StoreBytes - p.StoreBytes*keep/p.Objects}
}

// shortfall is by how much so much is above the limit of what is kept back.
func (p Profile) shortfall(used space, keep int) space {
	over := used.sub(p.limit(keep))
	if p.StoreBytes == 0 {
		over.bytes = 0
	}
	return space{max(over.objects, 0), max(over.bytes, 0)}
}

// reservation is what a commit asks for.
type reservation struct {
	takes space
	gives space // the commits whose last records it replaces
	adds  bool  // it takes for good
	keep  int   // of the reserve
}

// reservationFor changes that come to a commit. One that adds records, or is longer
// by more than an object than what it replaces, is for good: it leaves all of the
// reserve when the space that it makes is counted. Other records may be replaced
// while there is more than a third of it; deletions leave what compaction needs.
func (s *Store) reservationFor(changes []Change, c *commit) reservation {
	r := reservation{takes: c.space()}
	deletes := true
	records := map[*commit]int{} // that lie in older commits and are replaced
	replaced := map[string]bool{}
	for _, change := range changes {
		deletes = deletes && change.Delete
		if old := s.index.get(change.Record.Key); old == nil {
			r.adds = r.adds || !change.Delete
		} else if !replaced[change.Record.Key] {
			replaced[change.Record.Key] = true
			records[old.commit]++
		}
	}
	for old, n := range records {
		if n == old.records {
			r.gives = r.gives.add(old.space())
		}
	}
	grows := r.takes.sub(r.gives)
	r.adds = !deletes && (r.adds || grows.objects > 1 || grows.bytes > s.profile.SegmentBytes)
	r.keep = s.profile.Reserve / 3
	if deletes {
		r.keep = s.profile.Reserve / 6
	}
	return r
}

// following is what compaction makes space for after a commit: where one has added a
// record, another is likely to. Its first segment counts; that it will be longer nobody
// knows, and each write wears the token.
func (s *Store) following(r reservation) reservation {
	if !r.adds {
		return reservation{}
	}
	return reservation{takes: space{1, min(r.takes.bytes, s.profile.SegmentBytes)}, adds: true, keep: r.keep}
}

// LacksSpace reports whether the change that was last refused with Full would be
// refused again.
func (s *Store) LacksSpace() bool {
	return s.refused > 0 || s.shortfall(s.compaction.wanted, space{}) != (space{})
}

// shortfall is what there is too little of for a commit if something of what is on
// the token has gone.
func (s *Store) shortfall(r reservation, gone space) space {
	short := s.profile.shortfall(s.space.sub(gone).add(r.takes), r.keep)
	if r.adds {
		whole := s.profile.shortfall(s.space.sub(s.spareSpace()).add(r.takes).sub(r.gives), s.profile.Reserve)
		short = space{max(short.objects, whole.objects), max(short.bytes, whole.bytes)}
	}
	return short
}

// reserveSpace refuses what would not leave the reserve that is due. Compaction then
// works for it.
func (s *Store) reserveSpace(r reservation) error {
	if s.shortfall(r, space{}) == (space{}) {
		return nil
	}
	s.compaction.wanted = r
	u, p := s.Usage(), s.profile
	advice := "Delete secrets, or use a larger token"
	if len(s.compaction.plan) > 0 {
		advice = "Space is being made: try again in a minute. If there is too little even then, delete secrets, or use a larger token"
	}
	return errorf(Full, "the change takes %d objects of %d bytes together; the token holds %d objects, of which %d are to be destroyed, and %d bytes of the store; profile %s allows %d objects and %d bytes (0 is no limit), and keeps %d objects for updates and deletes. %s",
		r.takes.objects, r.takes.bytes, u.Objects, u.Superseded, u.Bytes, p.Name, p.Objects, p.StoreBytes, p.Reserve, advice)
}

// urgency is how much may be written to gain space.
type urgency int

const (
	notUrgent  urgency = iota
	worthwhile         // one segment, if it gains two
	urgent             // whatever it takes
)

// urgencyAt is how short objects and bytes are when so much is used. From half a
// reserve before the reserve begins what is worthwhile is done, and when a third of
// the reserve is eaten up, all.
func (p Profile) urgencyAt(used space) (objects, bytes urgency) {
	of := func(used, limit int) urgency {
		reserve := limit * p.Reserve / p.Objects
		switch eaten := used - (limit - reserve); {
		case limit == 0 || eaten < -reserve/2:
			return notUrgent
		case eaten < reserve/3:
			return worthwhile
		}
		return urgent
	}
	return of(used.objects, p.Objects), of(used.bytes, p.StoreBytes)
}

// satisfied reports whether a plan gains enough for the segments that it writes.
func (u urgency) satisfied(gain, least, segments int) bool {
	switch u {
	case notUrgent:
		return true
	case worthwhile:
		return segments == 1 && gain >= 2*least
	}
	return gain >= least
}
