// SPDX-License-Identifier: Apache-2.0

// Package mvcc keeps the versions of a store's records in memory, as etcd's
// package of that name does: an index of the last revision, the events that led
// to it, and the way from them to the index of any revision that they reach
// back to. It is what lists and watches read.
//
// It owns revisions that were made; who makes them, and where they are durable, it
// does not know. It never holds data in the clear, never calls the token, and no
// reader of it waits for another one.
package mvcc

import (
	"slices"
	"strings"
	"sync"

	"k8s.io/utils/clock"
)

// Store is the index as of the last revision, and the history that led to it. One
// goroutine writes it. Readers hold a lock only while they copy what they need:
// a slow one holds up nobody.
type Store struct {
	clock  clock.PassiveClock
	cipher memoryCipher

	mu       sync.RWMutex
	index    Index
	revision uint64
	history  history
	changed  chan struct{} // Closed at the next change.
}

// New makes a store without records, at revision 0.
func New(clock clock.PassiveClock, limits Limits) (*Store, error) {
	c, err := newMemoryCipher()
	if err != nil {
		return nil, err
	}
	return &Store{
		clock:   clock,
		cipher:  c,
		index:   NewIndex(slices.Values([]*Record(nil))),
		history: newHistory(limits, 0),
		changed: make(chan struct{}),
	}, nil
}

// LockKeys keeps the key of the history out of swap, as far as the kernel allows it.
func (s *Store) LockKeys() error { return s.cipher.lock() }

// Reset begins anew from an index whose history is not known. Watches and
// lists of any older revision expire.
func (s *Store) Reset(x Index, revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index, s.revision = x, revision
	s.history = newHistory(s.history.limits, revision)
	s.notify()
}

// Append makes events visible that are durable, or need not be. sealed is the
// data of their versions as far as the token does not hold it any more, or the
// caller has it at hand.
func (s *Store) Append(events []Event, sealed map[Version]Sealed) {
	if len(events) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index = s.index.apply(events)
	s.revision = events[len(events)-1].Revision
	now := s.clock.Now()
	for _, e := range events {
		e.time = now
		s.history.append(e)
	}
	for v, data := range sealed {
		s.history.keep(v, data)
	}
	s.history.trim(now)
	s.notify()
}

func (s *Store) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next change. To miss none,
// take it before reading.
func (s *Store) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// Current returns the index of the last revision, and that revision.
func (s *Store) Current() (Index, uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index, s.revision
}

// Bounds returns the oldest revision that At and After can begin from, and the last one.
func (s *Store) Bounds() (oldest, last uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.history.compacted, s.revision
}

// At returns the index of a revision, and that revision; 0 is the last one.
func (s *Store) At(revision uint64) (Index, uint64, error) {
	s.mu.RLock()
	x, last := s.index, s.revision
	if revision == 0 {
		revision = last
	}
	err := s.check(revision)
	var later []Event
	if err == nil {
		later = slices.Clone(s.history.after(revision))
	}
	s.mu.RUnlock()
	if err != nil || len(later) == 0 {
		return x, revision, err
	}
	return x.revert(later), revision, nil
}

// After returns at most limit events above a position whose keys begin with
// prefix, and the position that a reader of them has reached.
func (s *Store) After(position uint64, prefix string, limit int) ([]Event, uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.check(position); err != nil {
		return nil, 0, err
	}
	var events []Event
	for _, e := range s.history.after(position) {
		if strings.HasPrefix(e.Key(), prefix) {
			if len(events) == limit {
				return events, position, nil
			}
			events = append(events, e)
		}
		position = e.Revision
	}
	// Equal to the last revision: each one above the compacted is an event's.
	return events, position, nil
}

func (s *Store) check(revision uint64) error {
	switch {
	case revision < s.history.compacted:
		return compacted(revision, s.history.compacted)
	case revision > s.revision:
		return future(revision, s.revision)
	}
	return nil
}

// Seal seals the data of a version for Append and KeepData.
func (s *Store) Seal(v Version, data []byte) Sealed { return s.cipher.seal(v, data) }

// SealedData returns the data of a version, sealed, if the history has it.
func (s *Store) SealedData(v Version) (Sealed, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	kept := s.history.data[v]
	if kept == nil || kept.sealed == nil {
		return nil, false
	}
	return kept.sealed, true
}

// Data returns the data of a version if the history has it, else an error with
// reason Compacted.
func (s *Store) Data(v Version) ([]byte, error) {
	sealed, ok := s.SealedData(v)
	if !ok {
		oldest, _ := s.Bounds()
		return nil, compacted(v.DataRevision, oldest)
	}
	return s.cipher.open(v, sealed)
}

// KeepData keeps the data of a version if the history speaks of it.
func (s *Store) KeepData(v Version, sealed Sealed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.keep(v, sealed)
}

// Compact forgets all events up to a revision, which stays the oldest that can
// be read from. A revision above the last one is an error.
func (s *Store) Compact(revision uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision > s.revision {
		return future(revision, s.revision)
	}
	s.history.compact(revision)
	return nil
}

// Trim forgets what has become too old.
func (s *Store) Trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.trim(s.clock.Now())
}
