// SPDX-License-Identifier: Apache-2.0

package token

import (
	"maps"
	"slices"
)

const (
	// rememberedDeletions is how many of the last destroyed commits the list of
	// superseded ones goes on naming: a power cut undoes the last destroys only.
	rememberedDeletions = 16
	// maxInherited leaves space in the list for as many as have to be destroyed until
	// what was inherited is forgotten.
	maxInherited = maxSuperseded - rememberedDeletions
)

// deletions is the superseded commits that were destroyed last: as many as a power cut
// can bring back, and the head still lists them all.
//
// Those that were destroyed before the store was opened are in groups, as the head told
// them apart: each was destroyed after the one before it, in an order that nobody knows
// any more.
type deletions struct {
	inherited [][]uint64 // the oldest first, each by ascending id
	own       []uint64   // since the store was opened, in this order
}

// inheritDeletions are the commits that the head lists, each so many times, and that
// the token does not hold.
func inheritDeletions(listed map[uint64]int) (d deletions) {
	byTimes := map[int][]uint64{}
	for id, times := range listed {
		byTimes[times] = append(byTimes[times], id)
	}
	for _, times := range slices.Sorted(maps.Keys(byTimes)) {
		slices.Sort(byTimes[times])
		d.inherited = append(d.inherited, byTimes[times])
	}
	d.forget()
	if tooMany := d.count() - maxInherited; tooMany > 0 {
		// Only garbage that waited when the head was made comes in such a group, and of
		// that the lowest id was destroyed first.
		d.inherited[0] = d.inherited[0][tooMany:]
	}
	return d
}

// add remembers one that was destroyed now.
func (d *deletions) add(id uint64) {
	d.own = append(d.own, id)
	d.forget()
}

// forget drops the oldest ones while enough others were destroyed after them.
func (d *deletions) forget() {
	d.own = d.own[max(0, len(d.own)-rememberedDeletions):]
	later := len(d.own)
	for i, group := range slices.Backward(d.inherited) {
		if later >= rememberedDeletions {
			d.inherited = d.inherited[i+1:]
			return
		}
		later += len(group)
	}
}

// groups are all, the oldest group first. None is empty.
func (d *deletions) groups() [][]uint64 {
	if len(d.own) == 0 {
		return slices.Clone(d.inherited)
	}
	return append(slices.Clone(d.inherited), d.own)
}

func (d *deletions) count() (n int) {
	for _, group := range d.groups() {
		n += len(group)
	}
	return n
}
