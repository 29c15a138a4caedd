// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"j5t.io/hsm/pkg/token/format"
)

// Kind is what an entry says. The numbers are part of the file's format.
type Kind byte

const (
	// KindKeyring: a keyring, as on the token. The last one counts, and names the store.
	KindKeyring Kind = 1
	// KindSegment: a segment, as on the token.
	KindSegment Kind = 2
	// KindFailed: the name of a commit that was reported as not made. It never counts.
	KindFailed Kind = 3
	// KindUnresolved: the name of a commit whose outcome was reported as unknown. The
	// token decides.
	KindUnresolved Kind = 4
	// KindMade: the name of a commit that was made: its outcome was unknown before, or
	// its segments were dropped from the log when it was superseded.
	KindMade Kind = 5
	// KindReserved: a revision. No higher one was given to anything that is not in
	// the log.
	KindReserved Kind = 6
)

// Entry is one thing that the log says. Make it with one of the functions below.
type Entry struct {
	Kind Kind
	Body []byte
}

// Keyring is the entry of a keyring.
func Keyring(value []byte) Entry { return Entry{KindKeyring, value} }

// Segment is the entry of a segment. The segments of a commit are appended at once.
func Segment(value []byte) Entry { return Entry{KindSegment, value} }

// Failed is the entry of a commit that is going to be reported as not made.
func Failed(c CommitName) Entry { return Entry{KindFailed, c.encode()} }

// Unresolved is the entry of a commit whose outcome is going to be reported as unknown.
func Unresolved(c CommitName) Entry { return Entry{KindUnresolved, c.encode()} }

// Made is the entry of a commit that was made, and whose segments are not in the log
// or do not tell that.
func Made(c CommitName) Entry { return Entry{KindMade, c.encode()} }

// Reserved is the entry of a revision up to which any may be given.
func Reserved(revision uint64) Entry {
	return Entry{KindReserved, binary.BigEndian.AppendUint64(nil, revision)}
}

// CommitName names a commit among all others, also one of the same id.
type CommitName struct {
	ID    uint64
	Nonce format.Nonce
}

const commitNameBytes = 8 + format.NonceBytes

func (n CommitName) encode() []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, commitNameBytes), n.ID), n.Nonce[:]...)
}

func decodeCommitName(b []byte) (n CommitName, err error) {
	if len(b) != commitNameBytes {
		return n, fmt.Errorf("a commit's name has %d bytes", len(b))
	}
	n.ID = binary.BigEndian.Uint64(b)
	copy(n.Nonce[:], b[8:])
	return n, nil
}

func decodeRevision(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, errors.New("a revision does not have 8 bytes")
	}
	return binary.BigEndian.Uint64(b), nil
}
