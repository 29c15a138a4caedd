// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"fmt"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
)

// layout lays anchors onto a token of release 6.6.
type layout struct {
	t *testing.T
	*Session
	made int
}

func (l *layout) create(bytes int) pkcs11.Handle {
	l.t.Helper()
	l.made++
	h, err := l.Create(fmt.Sprintf("anchor-%04d", l.made), "j5t.io/hsm", make([]byte, bytes))
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

func (l *layout) destroy(handles ...pkcs11.Handle) {
	l.t.Helper()
	for _, h := range handles {
		if err := l.Destroy(h); err != nil {
			l.t.Fatal(err)
		}
	}
}

// namesBytes is what an object of a layout takes in flash beside its value.
const namesBytes = 2*headerBytes + descriptionBytes + len("anchor-0000") + len("j5t.io/hsm")

// plug fills what is left of the top sector. A product has to find its size by trying.
func (l *layout) plug() pkcs11.Handle {
	l.t.Helper()
	records := l.token.flash.records
	return l.create(records[len(records)-1].address%sectorBytes - namesBytes)
}

// single lays an anchor at the top of each sector.
func (l *layout) single(plug pkcs11.Handle, anchors int) {
	l.t.Helper()
	fillers := []pkcs11.Handle{plug}
	for range anchors {
		l.create(1)
		fillers = append(fillers, l.create(3890))
	}
	l.destroy(fillers...)
}

// double lays anchors that serve two sectors each: one has the value, one the description.
func (l *layout) double(plug pkcs11.Handle, anchors int) {
	l.t.Helper()
	fillers := []pkcs11.Handle{plug}
	for range anchors {
		top, gap := l.create(60), l.create(60)
		fillers = append(fillers, l.create(3670))
		l.destroy(gap)
		l.create(125)
		fillers = append(fillers, l.create(3910))
		l.destroy(top)
	}
	l.destroy(fillers...)
}

func newLayout(t *testing.T) *layout {
	t.Helper()
	_, s := withKey(t, Pico66With1M)
	return &layout{t: t, Session: s}
}

func singleAnchors(l *layout) { l.single(l.plug(), 56) }
func doubleAnchors(l *layout) { l.double(l.plug(), 37) }

// TestAnchors is the table of layouts that release 6.6 lives with.
func TestAnchors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		fact                 string
		lay                  func(*layout)
		live, largest, batch int
		mixed                bool
		updates              int
		sectors, hottest     float64 // An update writes, about.
	}{
		{"6.6: 52 × 3,890 bytes with 56 anchors survive 20,000 updates",
			singleAnchors, 52, 3890, 1, false, 20_000, 9.5, 1.1},
		{"6.6: sector writes an update are 5.8 with mixed sizes and anchors",
			singleAnchors, 52, 3890, 1, true, 20_000, 5.8, 1.1},
		{"6.6: 35,000 creates in batches of up to 5 with 56 anchors, none refused",
			singleAnchors, 48, 3890, 5, true, 35_000, 6.2, 1.1},
		{"6.6: 70 × 3,690 bytes with 37 double anchors survive 20,000 updates, of 14 sector writes each, the hottest 2.5",
			doubleAnchors, 70, 3690, 1, false, 20_000, 14, 2.5},
		{"6.6: 70 objects of up to 3,690 bytes with 37 double anchors survive 20,000 updates",
			doubleAnchors, 70, 3690, 1, true, 20_000, 8, 1},
	} {
		t.Run(row.fact, func(t *testing.T) {
			t.Parallel()
			fact(t, row.fact)
			l := newLayout(t)
			row.lay(l)
			c := newChurn(t, l.Session, 1, 0, nil)
			if c.bytes = always(row.largest); row.mixed {
				c.bytes = func() int { return 100 + c.random.IntN(row.largest-99) }
			}
			c.fill(t, row.live)
			c.batch = row.batch
			before := l.token.Counters()
			updates := times(row.updates)
			if done, err := c.update(updates); err != nil {
				t.Errorf("after %d updates: %v", done, err)
			}
			if testing.Short() {
				return // Laying the anchors wears more than so few updates.
			}
			after := l.token.Counters()
			sectors, hottest := float64(after.Sectors-before.Sectors)/float64(updates), float64(after.Hottest)/float64(updates)
			if sectors < row.sectors*0.85 || sectors > row.sectors*1.15 || hottest < row.hottest*0.85 || hottest > row.hottest*1.15 {
				t.Errorf("an update wrote %.2f sectors, the hottest %.2f times; expected %v and %v", sectors, hottest, row.sectors, row.hottest)
			}
		})
	}
}

// TestTooFewAnchors: the rules of the layouts, broken.
func TestTooFewAnchors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		fact        string
		lay         func(*layout)
		live, batch int
		refused     bool
	}{
		{"6.6: live objects and the largest batch must be three fewer than anchored sectors", singleAnchors, 52, 1, false},
		{"6.6: beyond that sectors leak, and updates are refused", singleAnchors, 57, 1, true},
		{"6.6: a batch counts as live", singleAnchors, 52, 12, true},
		{"6.6: a wrong plug lays anchors at the bottom of sectors, where they are useless", func(l *layout) {
			l.single(l.create(100), 56)
		}, 52, 1, true},
	} {
		t.Run(row.fact, func(t *testing.T) {
			t.Parallel()
			fact(t, row.fact)
			l := newLayout(t)
			row.lay(l)
			c := newChurn(t, l.Session, 1, row.live, always(3890))
			c.batch = row.batch
			done, err := c.update(20_000)
			if refused := code(err) == pkcs11.CKRGeneralError; refused != row.refused {
				t.Errorf("after %d updates: %v", done, err)
			}
		})
	}
}

// TestAnchorsSpareTheHottestSector: 4.0 erases an update on the development build.
func TestAnchorsSpareTheHottestSector(t *testing.T) {
	t.Parallel()
	fact(t, "next: 4 erases of the hottest sector an update of 1 KB, 8 of 4 KB")
	for _, row := range []struct{ bytes, hottest int }{{1000, 4}, {4000, 8}} {
		tok := New(PicoNext)
		c := newChurn(t, open(t, tok), 1, 10, always(row.bytes))
		before := tok.Counters()
		if done, err := c.update(100); err != nil {
			t.Fatalf("after %d updates: %v", done, err)
		}
		if got := tok.Counters().Hottest - before.Hottest; got != 100*row.hottest {
			t.Errorf("100 updates of %d bytes erased the hottest sector %d times", row.bytes, got)
		}
	}
}
