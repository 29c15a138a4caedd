// SPDX-License-Identifier: Apache-2.0

package format

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// Sealer seals and opens the segments of one store. It holds keys: see memlock.
type Sealer struct {
	store   StoreID
	current uint32 // the key that seals
	aeads   map[uint32]cipher.AEAD
}

// NewSealer makes the sealer of a store. It seals with the last of the keys, and
// opens with all. The caller may wipe the keys afterwards.
func NewSealer(store StoreID, keys []StoreKey) (*Sealer, error) {
	s := &Sealer{store: store, aeads: map[uint32]cipher.AEAD{}}
	for _, k := range keys {
		derived, err := k.derive("j5t.io/hsm segment")
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(derived)
		clear(derived)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		s.aeads[k.ID], s.current = aead, k.ID
	}
	return s, nil
}

// Store is the store whose segments are sealed.
func (s *Sealer) Store() StoreID { return s.store }

// Seal makes the segments of a commit out of the pieces of its payload, at most
// MaxParts, under a new nonce.
func (s *Sealer) Seal(commit uint64, pieces [][]byte) (nonce Nonce, segments [][]byte) {
	rand.Read(nonce[:]) // never fails
	return nonce, s.sealAs(nonce, commit, pieces)
}

func (s *Sealer) sealAs(nonce Nonce, commit uint64, pieces [][]byte) [][]byte {
	segments := make([][]byte, len(pieces))
	for i, piece := range pieces {
		h := Header{Key: s.current, Store: s.store, Commit: commit, Nonce: nonce, Part: uint16(i), Parts: uint16(len(pieces))}.encode()
		segments[i] = s.aeads[s.current].Seal(h[:headerBytes:headerBytes], h[headerBytes-gcmBytes:], piece, h)
	}
	return segments
}

// Open authenticates a segment and returns its header and its piece of the
// commit's payload. That the segment is where its header says, the caller checks.
//
// A store that was adopted keeps the segments that it had under its former id;
// they are authentic under its former key.
func (s *Sealer) Open(segment []byte) (Header, []byte, error) {
	h, err := DecodeHeader(segment)
	if err != nil {
		return h, nil, err
	}
	aead, ok := s.aeads[h.Key]
	if !ok {
		return h, nil, fmt.Errorf("it belongs to store %s, and is sealed with key %d, which the keyring does not hold", h.Store, h.Key)
	}
	head := segment[:headerBytes]
	piece, err := aead.Open(nil, head[headerBytes-gcmBytes:], segment[headerBytes:], head)
	switch {
	case err == nil:
		return h, piece, nil
	case h.Store != s.store:
		return h, nil, fmt.Errorf("it belongs to store %s", h.Store)
	}
	return h, nil, errors.New("it is not authentic: torn, changed, or sealed with another key")
}
