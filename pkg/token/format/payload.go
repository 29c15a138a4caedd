// SPDX-License-Identifier: Apache-2.0

package format

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// DigestBytes is the length of the digest of commit ids.
const DigestBytes = 16

// Payload is the content of a commit.
type Payload struct {
	// Live and Digest are of the commits that make up the store with this one:
	// all earlier ones, without the superseded. Recovery finds with them that
	// one is missing.
	Live   uint64
	Digest [DigestBytes]byte
	// Superseded are the ids of commits that have no say any more, in descending
	// order: those that may still be on the token, and the last ones destroyed. An id
	// that stands here more often than another was destroyed after it, or still is to be.
	Superseded []uint64
	Records    []LocatedRecord
}

// DigestOf is over commit ids in ascending order.
func DigestOf(ids []uint64) (d [DigestBytes]byte) {
	b := make([]byte, 0, 8*len(ids))
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	sum := sha256.Sum256(b)
	copy(d[:], sum[:])
	return d
}

// Encode returns the payload cut into pieces of at most size bytes. A record
// is cut only when it is longer than a piece, so that reading it takes one
// read. Where each record lies is set. The revisions of records must not be above
// the commit's id.
func (p *Payload) Encode(commit uint64, size int) [][]byte {
	estimate := 64 + 10*len(p.Superseded)
	for _, r := range p.Records {
		estimate += 64 + len(r.Record.Key) + len(r.Record.Address) + len(r.Record.Meta) + len(r.Record.Data)
	}
	b := make([]byte, 0, estimate) // not grown: that would leave copies of the data behind
	b = binary.AppendUvarint(b, p.Live)
	b = append(b, p.Digest[:]...)
	b = binary.AppendUvarint(b, uint64(len(p.Superseded)))
	previous := commit
	for _, id := range p.Superseded {
		b = binary.AppendUvarint(b, previous-id)
		previous = id
	}
	b = binary.AppendUvarint(b, uint64(len(p.Records)))

	var cuts []int // where pieces end, but for the last
	begin := 0     // of the last piece
	cut := func(at int) { cuts, begin = append(cuts, at), at }
	for len(b)-begin > size {
		cut(begin + size)
	}
	for i := range p.Records {
		before := len(b)
		b = p.Records[i].append(b, commit)
		if before > begin && p.Records[i].Length <= size && len(b)-begin > size {
			cut(before)
		}
		for len(b)-begin > size {
			cut(begin + size)
		}
	}

	pieces := make([][]byte, 0, len(cuts)+1)
	begin = 0
	for _, end := range append(cuts, len(b)) {
		pieces = append(pieces, b[begin:end])
		begin = end
	}
	return pieces
}

// EmptySegmentBytes is the length of a segment whose commit supersedes these, in
// descending order, and has no record; at most.
func EmptySegmentBytes(superseded []uint64) int {
	n := SealOverhead + 4*binary.MaxVarintLen32 + DigestBytes + binary.MaxVarintLen64
	for i := range superseded[min(1, len(superseded)):] {
		n += uvarintLen(superseded[i] - superseded[i+1])
	}
	return n
}

// DecodePayload reads the payload of a commit. Its records come without data, which
// is b[At:At+Size] of each; their metadata are copies.
func DecodePayload(commit uint64, b []byte) (*Payload, error) {
	d := decoder{rest: b}
	p := &Payload{Live: d.uvarint()}
	copy(p.Digest[:], d.bytes(DigestBytes))
	previous := commit
	for range d.count() {
		previous = d.below(previous)
		p.Superseded = append(p.Superseded, previous)
	}
	for range d.count() {
		r, err := d.record(commit, len(b))
		if err != nil {
			return nil, err
		}
		p.Records = append(p.Records, r)
	}
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%d bytes after the last record", len(d.rest))
	}
	if d.err != nil {
		return nil, d.err
	}
	return p, nil
}
