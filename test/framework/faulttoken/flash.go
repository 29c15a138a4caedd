// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"maps"
	"slices"
)

// Flash is the part of a Pico HSM's flash that holds files, and how its firmware gives
// it out. The zero Flash is memory without such habits.
type Flash struct {
	Sectors int // That files may lie in.
	// Gaps: a file takes the first gap that it fits in, wherever that is. Else it never
	// crosses the border of a sector, and takes a gap only where it ends directly below
	// another file and lies in that one's own sector.
	Gaps bool
}

// Sizes in flash, in bytes. The header is that of the host emulation, where the figures
// were measured; on an RP2040 it has 12 bytes, and a little more fits.
const (
	sectorBytes = 4096
	headerBytes = 20  // Of a file: two links, identifier, length.
	topBytes    = 134 // That formatting leaves unused above the first file.
	// descriptionBytes is what a description has beside label and application name.
	descriptionBytes = 25
)

// The files of a token that was just formatted, and of a key pair: private key,
// certificate request, description.
var (
	formattedFiles = []int{1, 1, 1, 1, 34, 34, 2}
	keyPairFiles   = []int{33, 538, 39}
)

// record is a file in flash.
type record struct{ address, size int }

func (r *record) end() int { return r.address + r.size }

// flash keeps the files as the firmware does: in a list that is linked from the top of
// flash down. What is freed is taken out of the list, and nothing else.
type flash struct {
	Flash
	records []*record
	dirty   map[int]bool // Sectors that the running command has changed.
	wear    []int        // Erases by sector.
}

func newFlash(f Flash) *flash {
	made := &flash{Flash: f, dirty: map[int]bool{}, wear: make([]int, f.Sectors)}
	if f.Sectors > 0 {
		made.format()
	}
	return made
}

func (f *flash) format() {
	f.records = nil
	for _, bytes := range formattedFiles {
		f.put(nil, bytes)
	}
	f.forget()
}

// clone copies the flash. It also gives the copy of each record.
func (f *flash) clone() (*flash, map[*record]*record) {
	c := &flash{Flash: f.Flash, dirty: maps.Clone(f.dirty), wear: slices.Clone(f.wear)}
	copies := map[*record]*record{}
	for _, r := range f.records {
		copied := *r
		c.records = append(c.records, &copied)
		copies[r] = &copied
	}
	return c, copies
}

// put writes a file. One that is there already keeps its place if it does not grow;
// else it is given up before its new place is looked for. There is nil, and no file,
// when flash has no room.
func (f *flash) put(old *record, bytes int) *record {
	if f.Sectors == 0 {
		return &record{}
	}
	size := bytes + headerBytes
	if old != nil && size <= old.size {
		old.size = size
		f.touch(old)
		return old
	}
	f.free(old)
	above := f.Sectors*sectorBytes - topBytes
	for next := 0; ; next++ {
		if address, found := f.below(above, size, next); found {
			r := &record{address, size}
			f.link(r, next)
			return r
		}
		if next == len(f.records) {
			return nil
		}
		above = f.records[next].address
	}
}

// below gives the place of a file between what begins at above and the next in the list.
func (f *flash) below(above, size, next int) (address int, found bool) {
	address = above - size
	sector := above / sectorBytes * sectorBytes
	end := 0 // Of what lies below.
	last := next == len(f.records)
	if !last {
		end = f.records[next].end()
	}
	switch {
	case f.Gaps:
		return address, address >= end
	case address >= sector:
		return address, last || address > end
	}
	// Only at the end of the list is the next sector opened.
	return sector - size, last && sector > 0
}

func (f *flash) link(r *record, i int) {
	f.touchNeighbours(i)
	f.touch(r)
	f.records = slices.Insert(f.records, i, r)
}

// free takes a file out of the list.
func (f *flash) free(r *record) {
	i := slices.Index(f.records, r)
	if i < 0 {
		return
	}
	f.records = slices.Delete(f.records, i, i+1)
	f.touchNeighbours(i)
	f.touch(r)
}

// restore links a file that was freed, unless its place was taken.
func (f *flash) restore(r *record) bool {
	if f.Sectors == 0 || r == nil {
		return true
	}
	i := slices.IndexFunc(f.records, func(o *record) bool { return o.address < r.end() })
	if i < 0 {
		i = len(f.records)
	}
	if i < len(f.records) && f.records[i].end() > r.address {
		return false
	}
	f.link(r, i)
	return true
}

// touchNeighbours marks the links of the files above and below a place in the list.
func (f *flash) touchNeighbours(i int) {
	above := f.Sectors - 1
	if i > 0 {
		above = f.records[i-1].address / sectorBytes
	}
	f.dirty[above] = true
	if i < len(f.records) {
		f.dirty[f.records[i].address/sectorBytes] = true
	}
}

func (f *flash) touch(r *record) {
	for sector := r.address / sectorBytes; sector <= (r.end()-1)/sectorBytes; sector++ {
		f.dirty[sector] = true
	}
}

// flush erases and programs, at the end of a command, the sectors that it changed.
func (f *flash) flush() (sectors int) {
	for sector := range f.dirty {
		f.wear[sector]++
	}
	sectors = len(f.dirty)
	clear(f.dirty)
	return sectors
}

// forget drops what is dirty, for changes that no command made.
func (f *flash) forget() { clear(f.dirty) }

// hottest is the erases of the sector that had most of them.
func (f *flash) hottest() int {
	if len(f.wear) == 0 {
		return 0
	}
	return slices.Max(f.wear)
}
