// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/format"
	"j5t.io/hsm/pkg/token/wal"
)

// damage is what recovery found that the token, or the log, does not hold as it
// should.
type damage struct {
	replay *wal.Replay
	// sealed is the values of the parts of commits.
	sealed map[*commit][][]byte
	// lost is the parts that the token does not hold, or not whole.
	lost        map[*commit][]int
	lostKeyring bool
	// replaced is the objects whose parts are lost.
	replaced []obsolete
	// refused is what the token holds of commits that were reported as not made.
	refused []obsolete
	// resolved is what turns out to have come of commits of unknown outcome.
	resolved []wal.Entry
}

// repair brings the token and the log into the state that recovery found. Stopped
// anywhere, the next recovery finds the same, and goes on.
func (d *damage) repair(s *Store) error {
	if len(d.resolved) > 0 {
		if err := appendToLog(s.log, d.resolved...); err != nil {
			return &Error{Reason: LogFailed, Message: "what became of the last commit could not be noted", Err: err}
		}
	}
	if err := d.destroyRefused(s); err != nil {
		return err
	}
	if err := d.restore(s); err != nil {
		return err
	}
	for _, replaced := range d.replaced {
		s.space.bytes += replaced.bytes()
		s.garbage.obsolete = append(s.garbage.obsolete, replaced)
	}
	if s.log == nil || d.logIsWhole(s) {
		return nil
	}
	return s.rewriteLog(d.replay, func(c *commit, i int) ([]byte, error) { return d.sealed[c][i], nil })
}

// destroyRefused destroys at once what was reported as not made: without this log,
// nobody knows that it does not count.
func (d *damage) destroyRefused(s *Store) error {
	s.garbage.obsolete = append(d.refused, s.garbage.obsolete...)
	for range d.refused {
		for left := len(s.garbage.obsolete); len(s.garbage.obsolete) == left; {
			if err := s.destroyNext(); err != nil {
				return err
			}
		}
	}
	return nil
}

// restore writes to the token what it lost: older commits first, of each the commit
// segment last.
func (d *damage) restore(s *Store) error {
	if d.lostKeyring {
		k, err := format.DecodeKeyring(s.keyring)
		if err != nil {
			return orInternal(err, "decoding the store's own keyring")
		}
		if _, err := s.recreate(format.KeyringLabel(k.Generation), s.keyring); err != nil {
			return err
		}
	}
	for _, c := range s.index.commits {
		for _, i := range slices.Backward(d.lost[c]) {
			handle, err := s.recreate(c.parts[i].Label, d.sealed[c][i])
			if err != nil {
				return err
			}
			c.parts[i].Handle = handle
		}
	}
	return nil
}

// recreate creates an object that the token lost, and makes space for it if need be.
func (s *Store) recreate(label string, value []byte) (pkcs11.Handle, error) {
	for s.space.objects >= s.profile.Objects && len(s.garbage.obsolete) > 0 {
		if err := s.destroyNext(); err != nil {
			return 0, err
		}
	}
	if !s.profile.shows(s.space.objects) {
		return 0, errorf(Full, "the token lost object %q, and there is no room to write it again: it shows %d data objects beside %d keys and certificates, and holds as many. Remove objects of others, then it is restored from the write-ahead log", label, s.profile.Visible, s.keys)
	}
	handle, err := s.dev.Create(label, format.Application, value)
	for isRefusal(s.dev, err) && len(s.garbage.obsolete) > 0 {
		if failure := s.destroyNext(); failure != nil {
			return 0, failure
		}
		handle, err = s.dev.Create(label, format.Application, value)
	}
	switch {
	case isRefusal(s.dev, err):
		return 0, &Error{Reason: Full, Message: fmt.Sprintf("the token lost object %q, and refuses to take it back from the write-ahead log. Make space on it, or move the log away to go on without what was lost", label), Err: err}
	case err != nil:
		return 0, fmt.Errorf("the token lost object %q, and it could not be created again from the write-ahead log: %w", label, err)
	}
	s.space = s.space.add(space{1, len(value)})
	s.report.Restored = append(s.report.Restored, label)
	return handle, nil
}

// logIsWhole reports whether the log holds the store. That it holds much else is for
// the collector: no store is refused for a disk that has no space for housekeeping.
func (d *damage) logIsWhole(s *Store) bool {
	return s.report.Log == LogCurrent && !s.log.Torn() &&
		string(d.replay.Keyring) == string(s.keyring) &&
		!slices.ContainsFunc(s.index.commits, func(c *commit) bool {
			logged := d.replay.Commits[c.id]
			return logged == nil || logged.Name != c.name()
		})
}
