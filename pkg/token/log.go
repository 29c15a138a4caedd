// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"j5t.io/hsm/pkg/token/wal"
)

const (
	// namedCommits is how many commits without segments a rewritten log names: of those
	// that were made, and of those that were not.
	namedCommits = 64
	// The log is rewritten when it is longer than twice what it needs, and this.
	logSlack = 64 << 10
)

// appendToLog puts entries on the disk before the token is touched; nowhere if no
// log is kept. A nil log is none.
func appendToLog(log *wal.Log, entries ...wal.Entry) error {
	if log == nil {
		return nil
	}
	return log.Append(entries...)
}

// logCommit notes a commit that is about to be written. The error is
// OutcomeUnknown if it may be in the log all the same.
func (s *Store) logCommit(c *commit, segments [][]byte) error {
	entries := make([]wal.Entry, len(segments))
	for i, segment := range segments {
		entries[i] = wal.Segment(segment)
	}
	err := appendToLog(s.log, entries...)
	var uncertain wal.UncertainError
	switch {
	case errors.As(err, &uncertain):
		return &Error{Reason: OutcomeUnknown, Message: fmt.Sprintf("it is not known whether commit %016x will be made from the write-ahead log", c.id), Err: err}
	case err != nil:
		return &Error{Reason: LogFailed, Message: "nothing was changed, for it could not be noted beside the token", Err: err}
	}
	return nil
}

// Reserved is the highest revision that may have been given, to a commit, made or
// not, or by Reserve. It is never below Head, and without a log not above it.
func (s *Store) Reserved() uint64 { return s.reserved }

// Reserve makes sure that a revision is never given again, whatever the clock
// says after a restart. Only when it is above Reserved it costs a write, of the
// log, which then reserves as many more as ahead says. Without a log it does
// nothing.
func (s *Store) Reserve(revision, ahead uint64) error {
	if s.log == nil || revision <= s.reserved {
		return nil
	}
	if s.stale != nil {
		return s.staleError()
	}
	mark := revision + ahead
	if err := s.log.Append(wal.Reserved(mark)); err != nil {
		return &Error{Reason: LogFailed, Message: fmt.Sprintf("revision %d cannot be given, for it could not be reserved", revision), Err: err}
	}
	s.reserved = mark
	return nil
}

// rewriteLog gives the log the store as it is, and drops what was superseded. Of the
// commits of replay that are not of the store, it names the newest, and apart from them
// those that were not made: the token may hold such a commit, hidden while the process
// lives, when hundreds of others were made after it. The values of segments come from
// value.
func (s *Store) rewriteLog(replay *wal.Replay, value func(c *commit, part int) ([]byte, error)) error {
	outcomes := maps.Clone(replay.Outcomes)
	entries := []wal.Entry{wal.Keyring(s.keyring), wal.Reserved(s.reserved)}
	var segments []wal.Entry
	for _, c := range s.index.commits {
		delete(outcomes, c.name())
		for i := range c.parts {
			v, err := value(c, i)
			if err != nil {
				return err
			}
			segments = append(segments, wal.Segment(v))
		}
	}
	named := map[bool]int{}
	for _, name := range slices.SortedFunc(maps.Keys(outcomes), func(a, b wal.CommitName) int { return cmp.Compare(b.ID, a.ID) }) {
		e := outcomeEntry(outcomes[name], name)
		if made := e.Kind == wal.KindMade; named[made] < namedCommits {
			named[made]++
			entries = append(entries, e)
		}
	}
	if err := s.log.Replace(append(entries, segments...)); err != nil {
		return &Error{Reason: LogFailed, Message: "the token's write-ahead log could not be rewritten", Err: err}
	}
	return nil
}

// outcomeEntry names a commit whose segments the log drops.
func outcomeEntry(kind wal.Kind, name wal.CommitName) wal.Entry {
	switch kind {
	case wal.KindFailed:
		return wal.Failed(name)
	case wal.KindUnresolved:
		return wal.Unresolved(name)
	}
	return wal.Made(name)
}

// logIsOversized reports whether the log holds much that was superseded.
func (s *Store) logIsOversized() bool {
	return s.log != nil && s.log.Size() > 2*s.space.bytes+logSlack
}

// shrinkLog rewrites a log that is oversized.
func (s *Store) shrinkLog() error {
	replay, err := s.log.Replay()
	if err != nil {
		return &Error{Reason: LogFailed, Message: "the token's write-ahead log cannot be used", Err: err}
	}
	return s.rewriteLog(replay, func(c *commit, i int) ([]byte, error) {
		if logged := replay.Commits[c.id]; logged != nil && logged.Name == c.name() {
			return logged.Segments[i], nil
		}
		value, err := s.dev.Value(c.parts[i].Handle)
		if err != nil {
			return nil, fmt.Errorf("reading object %q: %w", c.parts[i].Label, err)
		}
		return value, nil
	})
}
