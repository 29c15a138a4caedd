// SPDX-License-Identifier: Apache-2.0

package token

import (
	"maps"
	"slices"
)

// Scrub reads the whole store from the token again, through the device of a
// new session, brings back from the log what is damaged or lost, and reports
// what it found. Before it, the caller re-initialises the module, or the module
// may answer from memory; the old session is not used any more. It costs what Open
// costs: one read for each object of the store. Its error is a HousekeepingError. If
// an object is damaged, or the log cannot be used, and the token holds what it held,
// the store goes on as it was; a damaged object is an error of those who read it.
// After any other error the store is Stale.
func (s *Store) Scrub(dev Device) (RecoveryReport, error) {
	o := s.options
	o.StoreID, o.Provision, o.Adopt = s.ID(), false, nil
	fresh, err := Open(dev, o)
	if err != nil {
		reason := ReasonOf(err)
		if s.stale != nil || reason != Corrupt && reason != LogFailed || s.rebind(dev) != nil {
			s.stale = err
		}
		return RecoveryReport{}, housekeeping("scrubbing", err)
	}
	fresh.report.Changed = changedKeys(s.index, fresh.index)
	*s = *fresh
	return s.report, nil
}

// changedKeys are the keys whose records are not of the same revision in both.
func changedKeys(before, after *index) []string {
	revision := func(x *index, key string) uint64 {
		if e := x.get(key); e != nil {
			return e.Record.Revision
		}
		return 0
	}
	changed := map[string]bool{}
	for _, x := range []*index{before, after} {
		for key := range x.entries {
			if revision(before, key) != revision(after, key) {
				changed[key] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(changed))
}
