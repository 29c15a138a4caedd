// SPDX-License-Identifier: Apache-2.0

package token

// Usage is how much of a token is used, and by what.
type Usage struct {
	Profile Profile
	// Objects is the number of data objects on the token, of all applications.
	Objects int
	// Bytes is the length of the store's objects together.
	Bytes int
	// FreeObjects and FreeBytes are what new records can take yet, superseded and
	// spare objects counted as free, the reserve not. FreeBytes is the length of
	// segments, and never more than the free objects can hold.
	FreeObjects, FreeBytes int
	// Superseded is the number of objects that CollectGarbage is going to destroy.
	Superseded int
	// SpareObjects and SpareBytes are of the objects, superseded ones included,
	// that hold no record. The next commits make room of them.
	SpareObjects, SpareBytes int
	// Foreign is the number of objects of other applications.
	Foreign int
	// Legacy is the number of objects of the older operator among Foreign.
	Legacy int
	// Quarantined is the number of objects of ours that are not of the store, and
	// are left alone.
	Quarantined int
}

// Usage tells how full the token is.
func (s *Store) Usage() Usage {
	u := Usage{
		Profile: s.profile, Objects: s.objects, Bytes: s.bytes,
		Foreign: s.foreign, Legacy: len(s.legacy), Quarantined: len(s.findings.Quarantined),
	}
	for _, w := range s.waste {
		u.Superseded += len(w.objects)
	}
	spare := s.spareRoom()
	u.SpareObjects, u.SpareBytes = spare.objects, spare.bytes
	limit := s.profile.less(s.profile.Reserve)
	u.FreeObjects = max(0, limit.objects-s.objects+spare.objects)
	u.FreeBytes = u.FreeObjects * s.profile.SegmentBytes
	if s.profile.StoreBytes > 0 {
		u.FreeBytes = max(0, min(u.FreeBytes, limit.bytes-s.bytes+spare.bytes))
	}
	return u
}

// room is objects and bytes on the token.
type room struct{ objects, bytes int }

func (r room) add(other room) room { return room{r.objects + other.objects, r.bytes + other.bytes} }
func (r room) sub(other room) room { return room{r.objects - other.objects, r.bytes - other.bytes} }

func (u *unit) room() (r room) {
	for _, p := range u.parts {
		r = r.add(room{1, p.bytes})
	}
	return r
}

// used is what is on the token.
func (s *Store) used() room { return room{s.objects, s.bytes} }

// idleRoom is what goes with the next commit: units without a live record, and
// what CollectGarbage destroys.
func (s *Store) idleRoom() room { return s.roomOf(func(u *unit) bool { return u.live == 0 }) }

// spareRoom is idleRoom, and units that hold nothing but deletions.
func (s *Store) spareRoom() room { return s.roomOf(func(u *unit) bool { return u.records == 0 }) }

func (s *Store) roomOf(empty func(*unit) bool) (r room) {
	for _, w := range s.waste {
		for _, o := range w.objects {
			r = r.add(room{1, o.bytes})
		}
	}
	for _, u := range s.units {
		if empty(u) {
			r = r.add(u.room())
		}
	}
	return r
}

// less is what the token holds when so many objects, and the same part of the
// bytes, are kept back.
func (p Profile) less(keep int) room {
	if p.StoreBytes == 0 {
		return room{objects: p.Objects - keep}
	}
	return room{p.Objects - keep, p.StoreBytes - p.StoreBytes*keep/p.Objects}
}

// lack is by how much so much is above the limit of what is kept back.
func (p Profile) lack(r room, keep int) room {
	l := r.sub(p.less(keep))
	if p.StoreBytes == 0 {
		l.bytes = 0
	}
	return room{max(l.objects, 0), max(l.bytes, 0)}
}

// demand is what a commit asks for.
type demand struct {
	takes room
	gives room // the units whose last records it replaces
	adds  bool // it takes for good
	keep  int  // of the reserve
}

// demandOf a change that adds records, or is longer by more than an object than
// what it replaces, is for good: it leaves all of the reserve when the room that
// it makes is counted. Other records may be replaced while there is more than a
// third of it; deletions leave what packing needs.
func (s *Store) demandOf(changes []Change, u *unit) demand {
	d := demand{takes: u.room()}
	deletes := true
	records := map[*unit]int{} // that lie in older units and are replaced
	replaced := map[string]bool{}
	for _, c := range changes {
		deletes = deletes && c.Delete
		if old := s.index[c.Record.Key]; old == nil || old.Delete {
			d.adds = d.adds || !c.Delete
		} else if !replaced[c.Record.Key] {
			replaced[c.Record.Key] = true
			records[old.unit]++
		}
	}
	for old, n := range records {
		if n == old.records {
			d.gives = d.gives.add(old.room())
		}
	}
	grows := d.takes.sub(d.gives)
	d.adds = !deletes && (d.adds || grows.objects > 1 || grows.bytes > s.profile.SegmentBytes)
	d.keep = s.profile.Reserve / 3
	if deletes {
		d.keep = s.profile.Reserve / 6
	}
	return d
}

// lack is what there is too little of for a commit if something of what is on the
// token has gone.
func (s *Store) lack(d demand, gone room) room {
	l := s.profile.lack(s.used().sub(gone).add(d.takes), d.keep)
	if d.adds {
		whole := s.profile.lack(s.used().sub(s.spareRoom()).add(d.takes).sub(d.gives), s.profile.Reserve)
		l = room{max(l.objects, whole.objects), max(l.bytes, whole.bytes)}
	}
	return l
}

// checkRoom refuses what would not leave the reserve that is due.
func (s *Store) checkRoom(d demand) error {
	if s.lack(d, room{}) == (room{}) {
		return nil
	}
	s.wanted = d
	u, p := s.Usage(), s.profile
	return errorf(Full, "the change takes %d objects of %d bytes together; the token holds %d objects, of which %d are to be destroyed, and %d bytes of the store; profile %s allows %d objects and %d bytes (0 is no limit), and keeps %d objects for updates and deletes. Delete secrets, or use a larger token",
		d.takes.objects, d.takes.bytes, u.Objects, u.Superseded, u.Bytes, p.Name, p.Objects, p.StoreBytes, p.Reserve)
}

// haste is how much may be written to gain room.
type haste int

const (
	hasteNone  haste = iota
	hasteCheap       // one segment, if it gains two
	hasteAny         // whatever it takes
)

// hasteFor tells how short objects and bytes are when so much is held. From half a
// reserve before the reserve begins what is cheap is done, and when a third of
// the reserve is eaten up, all.
func (p Profile) hasteFor(held room) (objects, bytes haste) {
	of := func(held, limit int) haste {
		reserve := limit * p.Reserve / p.Objects
		switch eaten := held - (limit - reserve); {
		case limit == 0 || eaten < -reserve/2:
			return hasteNone
		case eaten < reserve/3:
			return hasteCheap
		}
		return hasteAny
	}
	return of(held.objects, p.Objects), of(held.bytes, p.StoreBytes)
}

// enough tells whether a plan gains enough for the segments that it writes.
func (h haste) enough(gain, least, segments int) bool {
	switch h {
	case hasteNone:
		return true
	case hasteCheap:
		return segments == 1 && gain >= 2*least
	}
	return gain >= least
}
