// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"slices"
)

// maxCompactionSteps is how many segments may be written to gain one.
const maxCompactionSteps = 16

// picker picks what to move so that space is gained: it fills segment after segment
// with the records of the commits that are emptiest, the last of which may keep some.
// A record longer than a segment stays where it is, and its commit with it.
type picker struct {
	byObjects          bool // else by bytes
	overhead, capacity int  // bytes of a segment: without records, and for them
	candidates         []candidate
}

// candidate is a commit with its live records, the longest first.
type candidate struct {
	entries []*entry
	live    int // bytes of the entries
	space   space
}

// newPicker looks for emptiness by objects, or by bytes.
func newPicker(s *Store, byObjects bool) *picker {
	p := &picker{byObjects: byObjects, overhead: s.emptySegmentBytes()}
	p.capacity = s.profile.SegmentBytes - p.overhead
	if limit := s.profile.StoreBytes; limit > 0 { // What is moved, and a commit that lists what it empties.
		p.capacity = min(p.capacity, limit-s.space.bytes-2*p.overhead)
	}
	byCommit := map[*commit]*candidate{}
	for _, e := range s.index.entries {
		c := byCommit[e.commit]
		if c == nil {
			c = &candidate{space: e.commit.space()}
			byCommit[e.commit] = c
		}
		c.entries = append(c.entries, e)
		c.live += e.movedBytes()
	}
	for _, commit := range s.index.commits { // in this order, so that of equal ones the older go first
		c := byCommit[commit]
		if c == nil {
			continue
		}
		slices.SortFunc(c.entries, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(b.movedBytes(), a.movedBytes()), cmp.Compare(a.Record.Key, b.Record.Key))
		})
		if c.entries[0].movedBytes() <= p.capacity {
			p.candidates = append(p.candidates, *c)
		}
	}
	slices.SortStableFunc(p.candidates, func(a, b candidate) int {
		if byObjects {
			return cmp.Compare(a.live*b.space.objects, b.live*a.space.objects)
		}
		return cmp.Compare(a.live*b.space.bytes, b.live*a.space.bytes)
	})
	return p
}

// plan returns the records of each segment, as soon as what is gained by so many
// of them is enough; nil if it never is.
func (p *picker) plan(maxSteps int, enough func(gain space, steps int) bool) (plan [][]*entry) {
	var gain space
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

// fill fills one segment, and returns what is gained by it.
func (p *picker) fill() (moved []*entry, gain space) {
	free := p.capacity
	gain = space{-1, -p.overhead}
	for emptied := 0; len(p.candidates) > 0; emptied++ {
		c := &p.candidates[0]
		if emptied == 1 && gain.objects == 0 && !c.fits(free) && (p.byObjects || gain.bytes-(p.capacity-free) < p.capacity/8) {
			// One segment for another that is no shorter.
			moved, free, gain, emptied = nil, p.capacity, space{-1, -p.overhead}, 0
		}
		var taken []*entry
		taken, free = c.take(free)
		moved = append(moved, taken...)
		if len(c.entries) > 0 {
			break
		}
		gain = gain.add(c.space)
		p.candidates = p.candidates[1:]
	}
	gain.bytes -= p.capacity - free
	return moved, gain
}

// fits reports whether any of the records fits.
func (c *candidate) fits(free int) bool { return c.entries[len(c.entries)-1].movedBytes() <= free }

// take removes as many records as fit.
func (c *candidate) take(free int) (taken []*entry, left int) {
	var rest []*entry
	for _, e := range c.entries {
		if n := e.movedBytes(); n <= free {
			free -= n
			taken = append(taken, e)
		} else {
			rest = append(rest, e)
		}
	}
	c.entries = rest
	return taken, free
}
