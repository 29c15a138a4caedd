// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

// maxPackingSteps is how many segments may be written to gain one.
const maxPackingSteps = 16

// packer plans how to gain room: it fills segment after segment with the records
// of the units that are emptiest, the last of which may keep a rest. A record
// longer than a segment stays where it is, and its unit with it.
type packer struct {
	byObjects          bool // else by bytes
	overhead, capacity int  // bytes of a segment: without records, and for them
	holds              []hold
}

// hold is a unit with its live records, the longest first.
type hold struct {
	entries []*entry
	live    int // bytes of the entries
	room    room
}

// newPacker looks for emptiness by objects, or by bytes.
func newPacker(s *Store, byObjects bool) *packer {
	p := &packer{byObjects: byObjects, overhead: s.overhead()}
	p.capacity = s.profile.SegmentBytes - p.overhead
	if limit := s.profile.StoreBytes; limit > 0 { // What is packed, and a commit that lists what it empties.
		p.capacity = min(p.capacity, limit-s.bytes-2*p.overhead)
	}
	holds := map[*unit]*hold{}
	for _, e := range s.index {
		h := holds[e.unit]
		if h == nil {
			h = &hold{room: e.unit.room()}
			holds[e.unit] = h
		}
		h.entries = append(h.entries, e)
		h.live += e.movedBytes()
	}
	for _, u := range s.units { // in this order, so that of equal ones the older go first
		h := holds[u]
		if h == nil {
			continue
		}
		slices.SortFunc(h.entries, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(b.movedBytes(), a.movedBytes()), cmp.Compare(a.Record.Key, b.Record.Key))
		})
		if h.entries[0].movedBytes() <= p.capacity {
			p.holds = append(p.holds, *h)
		}
	}
	slices.SortStableFunc(p.holds, func(a, b hold) int {
		if byObjects {
			return cmp.Compare(a.live*b.room.objects, b.live*a.room.objects)
		}
		return cmp.Compare(a.live*b.room.bytes, b.live*a.room.bytes)
	})
	return p
}

// overhead is the length of a segment without records, if it were committed now;
// at most.
func (s *Store) overhead() int {
	superseded := s.outline(nil, s.idle()).superseded
	n := sealOverhead + 4*binary.MaxVarintLen32 + digestBytes + binary.MaxVarintLen64
	for i := range superseded[min(1, len(superseded)):] {
		n += uvarintLen(superseded[i] - superseded[i+1])
	}
	return n
}

// movedBytes is the length of a record in another commit, at most.
func (e *entry) movedBytes() int {
	return e.length - uvarintLen(e.unit.id-e.Record.Revision) + binary.MaxVarintLen64
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// plan returns the records of each segment, as soon as what is gained by so many
// of them is enough; nil if it never is.
func (p *packer) plan(maxSteps int, enough func(gain room, steps int) bool) (plan [][]*entry) {
	var gain room
	for len(plan) < maxSteps {
		moved, net := p.fill()
		if len(moved) == 0 {
			return nil
		}
		plan, gain = append(plan, moved), gain.add(net)
		if enough(gain, len(plan)) {
			return plan
		}
	}
	return nil
}

// fill fills one segment, and tells what is gained by it.
func (p *packer) fill() (moved []*entry, gain room) {
	free := p.capacity
	gain = room{-1, -p.overhead}
	for emptied := 0; len(p.holds) > 0; emptied++ {
		h := &p.holds[0]
		if emptied == 1 && gain.objects == 0 && !h.fits(free) && (p.byObjects || gain.bytes-(p.capacity-free) < p.capacity/8) {
			// One segment for another that is no shorter.
			moved, free, gain, emptied = nil, p.capacity, room{-1, -p.overhead}, 0
		}
		var taken []*entry
		taken, free = h.take(free)
		moved = append(moved, taken...)
		if len(h.entries) > 0 {
			break
		}
		gain = gain.add(h.room)
		p.holds = p.holds[1:]
	}
	gain.bytes -= p.capacity - free
	return moved, gain
}

// fits tells whether any of the records fits.
func (h *hold) fits(free int) bool { return h.entries[len(h.entries)-1].movedBytes() <= free }

// take removes as many records as fit.
func (h *hold) take(free int) (taken []*entry, left int) {
	var rest []*entry
	for _, e := range h.entries {
		if n := e.movedBytes(); n <= free {
			free -= n
			taken = append(taken, e)
		} else {
			rest = append(rest, e)
		}
	}
	h.entries = rest
	return taken, free
}
