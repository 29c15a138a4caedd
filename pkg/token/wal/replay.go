// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"fmt"
	"maps"
	"slices"

	"j5t.io/hsm/pkg/token/format"
)

// Commit is a commit that the log holds whole.
type Commit struct {
	Name CommitName
	// Segments are in the order of their parts, as on the token. They are not
	// authenticated.
	Segments [][]byte
}

// Replay is what a log says.
type Replay struct {
	// Store is that of Keyring.
	Store format.StoreID
	// Keyring is as on the token; nil if there is none.
	Keyring []byte
	// Commits are those whose segments are all there, by id. Those that failed are
	// left out; whether an unresolved one counts, the token decides.
	Commits map[uint64]*Commit
	// Outcomes has the kind of the last entry of each commit that is named:
	// KindSegment, KindFailed, KindUnresolved, KindMade.
	Outcomes map[CommitName]Kind
	// Reserved is a revision below or at which any may have been given.
	Reserved uint64
}

// NewReplay is what an empty log says.
func NewReplay() *Replay {
	return &Replay{Commits: map[uint64]*Commit{}, Outcomes: map[CommitName]Kind{}}
}

// ReplayOf reads the entries of a log. An entry that it does not understand is an
// error: a later version wrote it.
func ReplayOf(entries []Entry) (*Replay, error) {
	r := NewReplay()
	for i, e := range entries {
		if err := r.apply(e); err != nil {
			return nil, fmt.Errorf("entry %d of the write-ahead log: %w", i, err)
		}
	}
	maps.DeleteFunc(r.Commits, func(_ uint64, c *Commit) bool {
		return r.Outcomes[c.Name] == KindFailed || slices.ContainsFunc(c.Segments, func(s []byte) bool { return s == nil })
	})
	return r, nil
}

func (r *Replay) apply(e Entry) error {
	switch e.Kind {
	case KindKeyring:
		k, err := format.DecodeKeyring(e.Body)
		if err != nil {
			return err
		}
		r.Store, r.Keyring = k.Store, e.Body
	case KindSegment:
		h, err := format.DecodeHeader(e.Body)
		if err != nil {
			return err
		}
		name := CommitName{h.Commit, h.Nonce}
		c := r.Commits[h.Commit]
		if c == nil || c.Name != name || len(c.Segments) != int(h.Parts) {
			c = &Commit{name, make([][]byte, h.Parts)}
			r.Commits[h.Commit] = c
		}
		c.Segments[h.Part] = e.Body
		r.note(name, e.Kind)
	case KindFailed, KindUnresolved, KindMade:
		name, err := decodeCommitName(e.Body)
		if err != nil {
			return err
		}
		r.note(name, e.Kind)
	case KindReserved:
		revision, err := decodeRevision(e.Body)
		if err != nil {
			return err
		}
		r.Reserved = max(r.Reserved, revision)
	default:
		return fmt.Errorf("unknown kind %d: a later version wrote it", e.Kind)
	}
	return nil
}

func (r *Replay) note(name CommitName, kind Kind) {
	r.Outcomes[name] = kind
	r.Reserved = max(r.Reserved, name.ID)
}

// Names reports whether any commit of this id is in the log, made or not.
func (r *Replay) Names(id uint64) bool {
	for name := range r.Outcomes {
		if name.ID == id {
			return true
		}
	}
	return false
}

// Failed reports whether a commit of this id was reported as not made.
func (r *Replay) Failed(id uint64) bool {
	for name, kind := range r.Outcomes {
		if name.ID == id && kind == KindFailed {
			return true
		}
	}
	return false
}

// Highest is the highest commit id that the log names; 0 if it names none.
func (r *Replay) Highest() (id uint64) {
	for name := range r.Outcomes {
		id = max(id, name.ID)
	}
	return id
}

// Forget returns what holds for a token that has lived elsewhere: nothing but the
// reserved revision.
func (r *Replay) Forget() *Replay {
	empty := NewReplay()
	empty.Reserved = r.Reserved
	return empty
}
