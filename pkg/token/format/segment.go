// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

const (
	headerBytes = 48
	gcmBytes    = 12 // of the nonce of AES-GCM: the end of the header
	// SealOverhead is how much longer a segment is than its piece of the payload: by
	// its header, and the tag of AES-GCM.
	SealOverhead = headerBytes + 16
	// NonceBytes is the length of a commit's nonce.
	NonceBytes = 10
)

// Nonce is random, and the same in all segments of a commit: so that parts of a
// commit that was aborted never mix with those of another of the same id.
type Nonce [NonceBytes]byte

// Header begins every segment, in the clear. It is the additional data of the
// segment's AES-256-GCM, and its last 12 bytes are the nonce of that.
type Header struct {
	Key    uint32 // the id of the store key
	Store  StoreID
	Commit uint64
	Nonce  Nonce
	Part   uint16 // 0 is the commit segment
	Parts  uint16
}

func (h Header) encode() []byte {
	b := appendPrefix(make([]byte, 0, headerBytes), kindSegment)
	b = binary.BigEndian.AppendUint16(b, h.Parts)
	b = binary.BigEndian.AppendUint32(b, h.Key)
	b = append(b, h.Store[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Commit)
	b = append(b, h.Nonce[:]...)
	return binary.BigEndian.AppendUint16(b, h.Part)
}

// DecodeHeader reads the header of a segment without opening it. Part is below
// Parts; nothing else of it is to be believed before Sealer.Open.
func DecodeHeader(segment []byte) (Header, error) {
	var h Header
	if len(segment) < SealOverhead {
		return h, fmt.Errorf("%d bytes are too short for a segment", len(segment))
	}
	if err := checkPrefix(segment, kindSegment); err != nil {
		return h, err
	}
	h.Parts = binary.BigEndian.Uint16(segment[6:])
	h.Key = binary.BigEndian.Uint32(segment[8:])
	copy(h.Store[:], segment[12:])
	h.Commit = binary.BigEndian.Uint64(segment[28:])
	copy(h.Nonce[:], segment[36:])
	h.Part = binary.BigEndian.Uint16(segment[46:])
	if h.Part >= h.Parts {
		return h, fmt.Errorf("part %d of %d", h.Part, h.Parts)
	}
	return h, nil
}

// SegmentLabel is CKA_LABEL of a part of a commit; part 0 is the commit segment.
func SegmentLabel(commit uint64, part uint16) string {
	if part == 0 {
		return fmt.Sprintf("segment-%016x", commit)
	}
	return fmt.Sprintf("segment-%016x-%04x", commit, part)
}

// ParseSegmentLabel reads what SegmentLabel returns, and nothing else.
func ParseSegmentLabel(label string) (commit uint64, part uint16, ok bool) {
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
	return commit, part, label == SegmentLabel(commit, part)
}
