// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// CheckInvariants returns what does not hold of the invariants of the index, and of
// what the store counts.
func (s *Store) CheckInvariants() error {
	sum := s.garbage.space()
	for _, c := range s.index.commits {
		sum = sum.add(c.space())
	}
	var counted error
	// After an adoption the former keyring is counted too, until the next opening finds it.
	if bytes := sum.bytes + len(s.keyring); bytes > s.space.bytes || bytes < s.space.bytes && s.options.Adopt == nil {
		counted = fmt.Errorf("the store takes %d bytes, counted as %d", bytes, s.space.bytes)
	}
	return errors.Join(s.index.check(), counted)
}

// check returns what does not hold of the invariants. Tests call it.
func (x *index) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	type counts struct{ live, records int }
	counted, puts := map[*commit]counts{}, map[string]int{}
	for i, c := range x.commits {
		counted[c] = counts{}
		if i > 0 && x.commits[i-1].id >= c.id {
			fail("commit %x is before %x", x.commits[i-1].id, c.id)
		}
		for _, key := range c.puts {
			puts[key]++
		}
	}
	for key, e := range x.entries {
		n, known := counted[e.commit]
		switch {
		case !known:
			fail("%q is in commit %x, which is not in the index", key, e.commit.id)
		case e.Record.Key != key || e.Record.Revision > e.commit.id || e.Record.Data != nil:
			fail("the entry of %q is of %q, revision %d of commit %x, with %d bytes of data", key, e.Record.Key, e.Record.Revision, e.commit.id, len(e.Record.Data))
		case e.Delete && puts[key] == 0:
			fail("the deletion of %q is kept for nothing", key)
		case !e.Delete && !slices.Contains(e.commit.puts, key):
			fail("commit %x does not put %q", e.commit.id, key)
		}
		n.live++
		if !e.Delete {
			n.records++
		}
		counted[e.commit] = n
	}
	for _, c := range x.commits {
		if n := counted[c]; n.live != c.live || n.records != c.records {
			fail("commit %x has %d live records, %d of them no deletions; it counts %d and %d", c.id, n.live, n.records, c.live, c.records)
		}
	}
	if !maps.Equal(puts, x.puts) {
		fail("the puts are %v, counted as %v", puts, x.puts)
	}
	return errors.Join(errs...)
}
