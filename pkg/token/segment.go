// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// application is CKA_APPLICATION of all objects of a store.
const application = "j5t.io/hsm"

const (
	magic         = "J5TH"
	formatVersion = 1
	kindSegment   = 1
	kindKeyring   = 2

	headerBytes  = 48
	sealOverhead = headerBytes + 16 // and the tag of GCM
	unitIDBytes  = 10
	maxParts     = 1<<16 - 1
)

// storeID names a store for its life.
type storeID [16]byte

func (id storeID) String() string { return hex.EncodeToString(id[:]) }

// header begins every segment, in the clear. It is the additional data of the
// segment's AES-256-GCM, and its last 12 bytes are the nonce.
type header struct {
	key    uint32
	store  storeID
	commit uint64
	// unit is random. All parts of a unit have the same, so that parts of a
	// commit that was given up never mix with another of the same id.
	unit  [unitIDBytes]byte
	part  uint16
	parts uint16
}

func (h header) encode() []byte {
	b := make([]byte, 0, headerBytes)
	b = append(b, magic...)
	b = append(b, formatVersion, kindSegment)
	b = binary.BigEndian.AppendUint16(b, h.parts)
	b = binary.BigEndian.AppendUint32(b, h.key)
	b = append(b, h.store[:]...)
	b = binary.BigEndian.AppendUint64(b, h.commit)
	b = append(b, h.unit[:]...)
	return binary.BigEndian.AppendUint16(b, h.part)
}

func decodeHeader(b []byte) (header, error) {
	var h header
	if len(b) < sealOverhead {
		return h, fmt.Errorf("%d bytes are too short for a segment", len(b))
	}
	if err := checkPrefix(b, kindSegment); err != nil {
		return h, err
	}
	h.parts = binary.BigEndian.Uint16(b[6:])
	h.key = binary.BigEndian.Uint32(b[8:])
	copy(h.store[:], b[12:])
	h.commit = binary.BigEndian.Uint64(b[28:])
	copy(h.unit[:], b[36:])
	h.part = binary.BigEndian.Uint16(b[46:])
	if h.part >= h.parts {
		return h, fmt.Errorf("part %d of %d", h.part, h.parts)
	}
	return h, nil
}

// checkPrefix checks the six bytes that all objects of a store begin with.
func checkPrefix(b []byte, kind byte) error {
	if len(b) < 6 || !bytes.HasPrefix(b, []byte(magic)) {
		return errors.New("not an object of this format")
	}
	if b[4] != formatVersion || b[5] != kind {
		return fmt.Errorf("format version %d, kind %d; expected %d and %d", b[4], b[5], formatVersion, kind)
	}
	return nil
}

// segmentLabel is CKA_LABEL of a part of a unit; part 0 is the commit segment.
func segmentLabel(commit uint64, part uint16) string {
	if part == 0 {
		return fmt.Sprintf("segment-%016x", commit)
	}
	return fmt.Sprintf("segment-%016x-%04x", commit, part)
}

func parseSegmentLabel(label string) (commit uint64, part uint16, ok bool) {
	rest, ok := strings.CutPrefix(label, "segment-")
	if !ok {
		return 0, 0, false
	}
	id, suffix, _ := strings.Cut(rest, "-")
	commit, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return 0, 0, false
	}
	if suffix != "" {
		p, err := strconv.ParseUint(suffix, 16, 16)
		if err != nil {
			return 0, 0, false
		}
		part = uint16(p)
	}
	return commit, part, label == segmentLabel(commit, part)
}

// sealer seals and opens the segments of one store.
type sealer struct {
	store   storeID
	current uint32 // the key that seals
	aeads   map[uint32]cipher.AEAD
}

func newSealer(store storeID, keys []storeKey) (*sealer, error) {
	s := &sealer{store: store, aeads: map[uint32]cipher.AEAD{}}
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
		s.aeads[k.id], s.current = aead, k.id
	}
	return s, nil
}

// seal makes the segments of a unit out of the pieces of its payload.
func (s *sealer) seal(commit uint64, pieces [][]byte) (unit [unitIDBytes]byte, segments [][]byte) {
	rand.Read(unit[:]) // never fails
	return unit, s.sealAs(unit, commit, pieces)
}

func (s *sealer) sealAs(unit [unitIDBytes]byte, commit uint64, pieces [][]byte) [][]byte {
	segments := make([][]byte, len(pieces))
	for i, piece := range pieces {
		h := header{key: s.current, store: s.store, commit: commit, unit: unit, part: uint16(i), parts: uint16(len(pieces))}.encode()
		segments[i] = s.aeads[s.current].Seal(h[:headerBytes:headerBytes], h[headerBytes-12:], piece, h)
	}
	return segments
}

// open authenticates a segment and returns its header and its piece of the
// unit's payload. A store that was adopted keeps the segments that it had under
// its former id; they are authentic under its former key.
func (s *sealer) open(segment []byte) (header, []byte, error) {
	h, err := decodeHeader(segment)
	if err != nil {
		return h, nil, err
	}
	aead, ok := s.aeads[h.key]
	if !ok {
		return h, nil, fmt.Errorf("it belongs to store %s, and is sealed with key %d, which the keyring does not hold", h.store, h.key)
	}
	head := segment[:headerBytes]
	piece, err := aead.Open(nil, head[headerBytes-12:], segment[headerBytes:], head)
	switch {
	case err == nil:
		return h, piece, nil
	case h.store != s.store:
		return h, nil, fmt.Errorf("it belongs to store %s", h.store)
	}
	return h, nil, errors.New("it is not authentic: torn, changed, or sealed with another key")
}
