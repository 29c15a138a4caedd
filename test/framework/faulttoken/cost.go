// SPDX-License-Identifier: Apache-2.0

package faulttoken

// What calls cost on a Pico HSM through OpenSC.
const (
	openAPDUs, openAPDUsAnObject = 24, 3
	readAPDUs                    = 2 // And one a kilobyte.
	createAPDUs                  = 7 // And one a chunk.
	destroyAPDUs                 = 3

	// So much of a value goes into an APDU, extended or short.
	chunkBytes, shortChunkBytes = 1215, 230
)

// chunks is how many APDUs carry a value.
func chunks(bytes, chunk int) int { return (bytes + chunk - 1) / chunk }

// costs is what was measured at a size of value; between two rows it grows evenly.
type costs struct {
	bytes           int
	create, destroy int // Flash sectors, erased and programmed.
	// Erases of the hottest sector, of a create with the destroy of another of the same size.
	hottest int
}

// The sectors that a Pico HSM writes whose firmware looks after the order of its writes.
var measuredCosts = []costs{
	{0, 6, 5, 4}, {1215, 7, 5, 4}, {1216, 10, 5, 4}, {2430, 10, 3, 6}, {4000, 18, 5, 8}, {8000, 41, 6, 16}, {32767, 339, 13, 64},
}

func costOf(bytes int) costs {
	for i := 1; ; i++ {
		a, b := measuredCosts[i-1], measuredCosts[i]
		if bytes <= b.bytes || i == len(measuredCosts)-1 {
			between := func(from, to int) int { return from + (to-from)*(bytes-a.bytes)/(b.bytes-a.bytes) }
			return costs{bytes, between(a.create, b.create), between(a.destroy, b.destroy), between(a.hottest, b.hottest)}
		}
	}
}

// Counters are of the token's whole life.
type Counters struct {
	Calls map[string]int // By PKCS#11 function.
	APDUs int
	// Sectors of flash, erased and programmed: as measured on the development firmware, or,
	// of release 6.6, as its way to place files makes them.
	Sectors int
	Hottest int // Erases of the sector that had most of them.
}

// Counters returns a copy.
func (t *Token) Counters() Counters {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counters
	c.Calls = map[string]int{}
	for f, n := range t.counters.Calls {
		c.Calls[f] = n
	}
	if t.countsFlash() {
		c.Hottest = t.flash.hottest()
	}
	return c
}

// countsFlash reports whether sectors are counted where they are written.
func (t *Token) countsFlash() bool { return t.profile.Flash.Sectors > 0 && !t.profile.Flash.Gaps }

// flush ends a command that changed flash.
func (t *Token) flush() {
	if sectors := t.flash.flush(); t.countsFlash() {
		t.counters.Sectors += sectors
	}
}

func (t *Token) chunk() int {
	if t.reader.ShortAPDUs {
		return shortChunkBytes
	}
	return chunkBytes
}

// created counts what a create has cost that came to its end.
func (t *Token) created(bytes int) {
	t.counters.APDUs += createAPDUs + chunks(bytes, t.chunk())
	c := costOf(bytes)
	if t.reader.ShortAPDUs {
		c.create, c.hottest = 2*c.create, 2*c.hottest
	}
	t.count(c.create, c.hottest-c.hottest/2)
}

func (t *Token) destroyed(bytes int) {
	t.counters.APDUs += destroyAPDUs
	c := costOf(bytes)
	t.count(c.destroy, c.hottest/2)
}

func (t *Token) count(sectors, hottest int) {
	if !t.countsFlash() {
		t.counters.Sectors += sectors
		t.counters.Hottest += hottest
	}
}
