// SPDX-License-Identifier: Apache-2.0

// Package token owns a store on a token: opening and recovery, commits, garbage
// collection, compaction, and what lies beside the token in the write-ahead log.
// The bytes are of package format, the log's file of package wal. It never caches a
// value, never destroys what it does not understand, and knows nothing of PINs,
// sessions and Kubernetes.
package token

import (
	"fmt"
	"iter"

	"j5t.io/hsm/pkg/memlock"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/format"
	"j5t.io/hsm/pkg/token/wal"
)

// Record is what the store keeps under a key.
type Record = format.Record

// Change is a put of a record, or the deletion of a key.
type Change = format.Change

// Store is a store on one token. It is used by one goroutine at a time, and not
// longer than the session of its Device.
type Store struct {
	dev     Device
	options Options // that it was opened with
	profile Profile
	sealer  *format.Sealer
	keyring []byte   // as on the token
	log     *wal.Log // nil: none is kept

	index      *index
	garbage    garbage
	compaction compaction
	space      space // all objects on the token, and the bytes of the store's
	foreign    int   // objects of other applications
	keys       int   // keys and certificates
	legacy     []pkcs11.Object

	attempted uint64 // the highest id that a commit got, made or not
	reserved  uint64 // the highest revision that anything may have got
	refused   int    // bytes of the object that the token refused; 0 since it took as much, or an object was destroyed
	stale     error  // why it is not known any more what the token holds
	report    RecoveryReport
}

// ID names the store, in hex.
func (s *Store) ID() string { return s.sealer.Store().String() }

// Head is the highest durable revision, deletions included; 0 if there was
// never a commit.
func (s *Store) Head() uint64 { return s.index.head() }

// Contains reports whether the commit whose highest revision this is has been
// made. Asked of a store that was opened after OutcomeUnknown, it is the outcome.
func (s *Store) Contains(revision uint64) bool { return s.index.contains(revision) }

// Records gives all records in key order, without data.
func (s *Store) Records() iter.Seq[Record] { return s.index.all() }

// Data reads the data of a record from the token and authenticates it. That is
// one value read, and more only for a record longer than a segment. A key that
// the store does not hold is NotFound. An object that has gone is an error of the
// device, or Corrupt; it never looks like an absent record.
func (s *Store) Data(key string) ([]byte, error) {
	if s.stale != nil {
		return nil, s.staleError()
	}
	e := s.index.get(key)
	if e == nil {
		return nil, errorf(NotFound, "the store holds no record %q", key)
	}
	data := make([]byte, 0, e.Size)
	for i, p := range e.commit.parts {
		from, to := max(e.At, p.start), min(e.At+e.Size, p.start+p.size)
		if from >= to && (e.Size > 0 || i > 0) { // also empty data is asked for
			continue
		}
		piece, err := s.readPart(e.commit, i)
		if err != nil {
			return nil, err
		}
		if from < to {
			data = append(data, piece[from-p.start:to-p.start]...)
		}
		clear(piece)
	}
	return data, nil
}

// readPart reads a part again, and checks that it is the same as before.
func (s *Store) readPart(c *commit, i int) ([]byte, error) {
	p := c.parts[i]
	value, err := s.dev.Value(p.Handle)
	if err != nil {
		return nil, fmt.Errorf("reading object %q: %w", p.Label, err)
	}
	h, piece, err := s.sealer.Open(value)
	if err == nil && (h.Commit != c.id || int(h.Part) != i || h.Nonce != c.nonce || len(piece) != p.size) {
		err = misplaced(h)
	}
	if err != nil {
		return nil, corruptObject(p.Label, err)
	}
	return piece, nil
}

// misplaced is what is wrong with an authentic segment in the place of another.
func misplaced(h format.Header) error {
	return fmt.Errorf("it holds part %d of commit %016x", h.Part, h.Commit)
}

// Stale reports whether an earlier error left open what the token holds: every call
// fails until the store is opened again, or scrubbed.
func (s *Store) Stale() bool { return s.stale != nil }

func (s *Store) staleError() error {
	return &Error{Reason: Stale, Message: "the store has to be opened again", Err: s.stale}
}

// LockKeys keeps the keys of the store from being written to swap. An error
// means that the kernel does not allow it.
func (s *Store) LockKeys() error { return memlock.Lock(s.sealer) }
