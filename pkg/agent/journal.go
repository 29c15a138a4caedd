// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"strings"
	"sync"

	"k8s.io/utils/clock"
)

// journal is what the agent keeps in memory of its store: the index as of the
// last revision, and the history that led to it. The worker alone writes it.
// Readers never wait for the token, and a slow one holds up nobody.
type journal struct {
	clock  clock.PassiveClock
	sealer sealer

	mu       sync.RWMutex
	index    index
	revision uint64
	history  history
	changed  chan struct{} // Closed at the next change.
}

func newJournal(clock clock.PassiveClock, limits HistoryLimits) (*journal, error) {
	s, err := newSealer()
	if err != nil {
		return nil, err
	}
	return &journal{
		clock:   clock,
		sealer:  s,
		index:   newIndex(slices.Values([]*record(nil))),
		history: newHistory(limits, 0),
		changed: make(chan struct{}),
	}, nil
}

// reset begins anew from an index whose history is not known. Watches and
// lists of any older revision expire.
func (j *journal) reset(x index, revision uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.index, j.revision = x, revision
	j.history = newHistory(j.history.limits, revision)
	j.announce()
}

// append makes changes visible that are durable, or need not be. sealed is the
// data of their versions as far as the token does not hold it any more, or the
// caller has it at hand.
func (j *journal) append(events []event, sealed map[version][]byte) {
	if len(events) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.index = j.index.redo(events)
	j.revision = events[len(events)-1].revision
	now := j.clock.Now()
	for _, e := range events {
		e.time = now
		j.history.append(e)
	}
	for v, data := range sealed {
		j.history.hold(v, data)
	}
	j.history.trim(now)
	j.announce()
}

func (j *journal) announce() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// changes gives a channel that is closed at the next change. To miss none,
// take it before reading.
func (j *journal) changes() <-chan struct{} {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.changed
}

// now gives the index and its revision.
func (j *journal) now() (index, uint64) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.index, j.revision
}

// bounds gives the oldest revision that at and after can begin from, and the last one.
func (j *journal) bounds() (oldest, last uint64) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.history.compacted, j.revision
}

// at gives the index as of a revision; 0 is the last one.
func (j *journal) at(revision uint64) (index, uint64, error) {
	j.mu.RLock()
	x, last := j.index, j.revision
	if revision == 0 {
		revision = last
	}
	err := j.check(revision)
	var later []event
	if err == nil {
		later = slices.Clone(j.history.after(revision))
	}
	j.mu.RUnlock()
	if err != nil || len(later) == 0 {
		return x, revision, err
	}
	return x.undo(later), revision, nil
}

// after gives at most limit events above a position whose keys begin with
// prefix, and the position that a reader of them has reached.
func (j *journal) after(position uint64, prefix string, limit int) ([]event, uint64, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if err := j.check(position); err != nil {
		return nil, 0, err
	}
	var events []event
	for _, e := range j.history.after(position) {
		if strings.HasPrefix(e.key(), prefix) {
			if len(events) == limit {
				return events, position, nil
			}
			events = append(events, e)
		}
		position = e.revision
	}
	// Equal to the last revision: each one above the compacted is an event's.
	return events, position, nil
}

func (j *journal) check(revision uint64) error {
	switch {
	case revision < j.history.compacted:
		return expiredError(revision, j.history.compacted)
	case revision > j.revision:
		return futureError(revision, j.revision)
	}
	return nil
}

// held gives the data of a version, sealed, if the history has it.
func (j *journal) held(v version) ([]byte, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	held := j.history.data[v]
	if held == nil || held.sealed == nil {
		return nil, false
	}
	return held.sealed, true
}

// data gives the data of a version if the history has it, else an error with
// reason EXPIRED.
func (j *journal) data(v version) ([]byte, error) {
	sealed, ok := j.held(v)
	if !ok {
		oldest, _ := j.bounds()
		return nil, expiredError(v.dataRevision, oldest)
	}
	return j.sealer.open(v, sealed)
}

// hold keeps the data of a version if the history speaks of it.
func (j *journal) hold(v version, sealed []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.history.hold(v, sealed)
}

// compact forgets all events up to a revision, which stays the oldest that can
// be read from. A revision above the last one is an error.
func (j *journal) compact(revision uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if revision > j.revision {
		return futureError(revision, j.revision)
	}
	j.history.compact(revision)
	return nil
}

// trim forgets what has become too old.
func (j *journal) trim() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.history.trim(j.clock.Now())
}
