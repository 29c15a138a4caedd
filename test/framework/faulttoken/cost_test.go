// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"fmt"
	"testing"
)

// TestCostTable is the table of APDUs and flash sectors. Sectors are those of the
// development build; of release 6.6 they follow from where files lie.
func TestCostTable(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		bytes, createAPDUs, least, most, destroyAPDUs, destroySectors int
	}{
		{1, 8, 6, 7, 3, 5},
		{1215, 8, 6, 7, 3, 5},
		{1216, 9, 10, 10, 3, 5},
		{2430, 9, 9, 10, 3, 3},
		{4000, 11, 18, 18, 3, 5},
		{8000, 14, 41, 41, 3, 6},
		{32767, 34, 339, 339, 3, 13},
	} {
		line := fmt.Sprintf("%d bytes: create %d APDUs and %d to %d sectors, destroy %d and %d",
			row.bytes, row.createAPDUs, row.least, row.most, row.destroyAPDUs, row.destroySectors)
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			fact(t, line)
			for _, p := range FieldProfiles {
				if row.bytes > p.MaxBytes {
					continue
				}
				tok := New(p)
				s := open(t, tok)
				before := tok.Counters()
				h := create(t, s, "a", row.bytes)
				created := tok.Counters()
				if err := s.Destroy(h); err != nil {
					t.Fatal(err)
				}
				destroyed := tok.Counters()
				if apdus := created.APDUs - before.APDUs; apdus != row.createAPDUs {
					t.Errorf("%s: a create took %d APDUs", p.Name, apdus)
				}
				if apdus := destroyed.APDUs - created.APDUs; apdus != row.destroyAPDUs {
					t.Errorf("%s: a destroy took %d APDUs", p.Name, apdus)
				}
				if tok.countsFlash() {
					continue
				}
				if sectors := created.Sectors - before.Sectors; sectors < row.least || sectors > row.most {
					t.Errorf("%s: a create wrote %d sectors", p.Name, sectors)
				}
				if sectors := destroyed.Sectors - created.Sectors; sectors != row.destroySectors {
					t.Errorf("%s: a destroy wrote %d sectors", p.Name, sectors)
				}
			}
		})
	}
}

// TestShortAPDUs: wear doubles without extended APDUs.
func TestShortAPDUs(t *testing.T) {
	t.Parallel()
	fact(t, "wear doubles without extended APDUs")
	for _, p := range []Profile{Pico66With3M, PicoNext} {
		wear := func(r Reader) (apdus, sectors int) {
			tok := New(p)
			tok.SetReader(r)
			c := newChurn(t, open(t, tok), 1, 30, always(1200))
			before := tok.Counters()
			if done, err := c.update(300); err != nil {
				t.Fatalf("after %d updates: %v", done, err)
			}
			after := tok.Counters()
			return after.APDUs - before.APDUs, after.Sectors - before.Sectors
		}
		apdus, sectors := wear(Reader{})
		shortAPDUs, shortSectors := wear(Reader{ShortAPDUs: true})
		if shortAPDUs <= apdus || 10*shortSectors < 14*sectors {
			t.Errorf("%s: %d APDUs and %d sectors, short %d and %d", p.Name, apdus, sectors, shortAPDUs, shortSectors)
		}
	}
}

func TestCountersOfOldProfiles(t *testing.T) {
	t.Parallel()
	tok := New(Pico66)
	s := open(t, tok)
	if err := s.Destroy(create(t, s, "a", 100)); err != nil {
		t.Fatal(err)
	}
	c := tok.Counters()
	if c.APDUs != 24+8+3 || c.Sectors != 6+5 || c.Calls[Create] != 1 || c.Calls[Destroy] != 1 || c.Calls[Login] != 1 {
		t.Errorf("counters are %+v", c)
	}
}
