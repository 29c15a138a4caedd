// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	opPut    = 1
	opDelete = 2

	digestBytes = 16
)

// Record is what the store keeps under a key.
type Record struct {
	Key     string
	Address string
	// Meta is compressed, and kept in memory. Nothing secret.
	Meta []byte
	// Data is secret: only on the token, and never compressed, so that its
	// length tells nothing of its content.
	Data []byte
	// Revision is that of the last change, DataRevision of the last one of Data.
	Revision     uint64
	DataRevision uint64
}

// Change is a put of a record, or the deletion of a key.
type Change struct {
	Record Record // Of a deletion, only Key and Revision.
	Delete bool
}

// payload is the content of a unit.
type payload struct {
	// live and digest are of the units that make up the store with this one:
	// all earlier ones, without the superseded. Recovery finds with them that
	// one is missing.
	live   uint64
	digest [digestBytes]byte
	// superseded are the ids of units that have no say any more, in descending
	// order: those that may still be on the token, and the last ones destroyed.
	superseded []uint64
	records    []placed
}

// placed is a change, and where in the payload of its unit its data lies.
type placed struct {
	Change
	at, size int
	length   int // of the encoded record
}

// digestOf is over the ids in ascending order.
func digestOf(ids []uint64) (d [digestBytes]byte) {
	b := make([]byte, 0, 8*len(ids))
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	sum := sha256.Sum256(b)
	copy(d[:], sum[:])
	return d
}

// encode returns the payload cut into pieces of at most size bytes. A record
// is cut only when it is longer than a piece, so that reading it takes one
// read. The places of the records are set.
func (p *payload) encode(commit uint64, size int) [][]byte {
	estimate := 64 + 10*len(p.superseded)
	for _, r := range p.records {
		estimate += 64 + len(r.Record.Key) + len(r.Record.Address) + len(r.Record.Meta) + len(r.Record.Data)
	}
	b := make([]byte, 0, estimate) // not grown: that would leave copies of the data behind
	b = binary.AppendUvarint(b, p.live)
	b = append(b, p.digest[:]...)
	b = binary.AppendUvarint(b, uint64(len(p.superseded)))
	previous := commit
	for _, id := range p.superseded {
		b = binary.AppendUvarint(b, previous-id)
		previous = id
	}
	b = binary.AppendUvarint(b, uint64(len(p.records)))

	var cuts []int // where pieces end, but for the last
	begin := 0     // of the last piece
	cut := func(at int) { cuts, begin = append(cuts, at), at }
	for len(b)-begin > size {
		cut(begin + size)
	}
	for i := range p.records {
		before := len(b)
		b = p.records[i].encode(b, commit)
		length := len(b) - before
		p.records[i].length = length
		if before > begin && length <= size && len(b)-begin > size {
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

func (r *placed) encode(b []byte, commit uint64) []byte {
	op := byte(opPut)
	if r.Delete {
		op = opDelete
	}
	b = append(b, op)
	b = binary.AppendUvarint(b, commit-r.Record.Revision)
	if r.Delete {
		b = appendDescription(b, description{key: r.Record.Key})
		r.at, r.size = len(b), 0
		return b
	}
	b = binary.AppendUvarint(b, r.Record.Revision-r.Record.DataRevision)
	b = appendDescription(b, description{key: r.Record.Key, address: r.Record.Address, meta: r.Record.Meta})
	b = binary.AppendUvarint(b, uint64(len(r.Record.Data)))
	r.at, r.size = len(b), len(r.Record.Data)
	return append(b, r.Record.Data...)
}

// decodePayload reads the payload of a unit. Its records come without data.
func decodePayload(commit uint64, b []byte) (*payload, error) {
	d := decoder{rest: b}
	p := &payload{live: d.uvarint()}
	copy(p.digest[:], d.bytes(digestBytes))
	previous := commit
	for range d.count() {
		previous = d.below(previous)
		p.superseded = append(p.superseded, previous)
	}
	for range d.count() {
		before := len(d.rest)
		r, err := d.record(commit, len(b))
		if err != nil {
			return nil, err
		}
		r.length = before - len(d.rest)
		p.records = append(p.records, r)
	}
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%d bytes after the last record", len(d.rest))
	}
	if d.err != nil {
		return nil, d.err
	}
	return p, nil
}

var errShort = errors.New("it ends too early")

// decoder reads from the front. After an error it gives zeros.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) record(commit uint64, length int) (placed, error) {
	var r placed
	op := d.bytes(1)
	if d.err != nil {
		return r, d.err
	}
	r.Record.Revision = d.below(commit)
	switch op[0] {
	case opPut:
		r.Record.DataRevision = d.below(r.Record.Revision)
	case opDelete:
		r.Delete = true
	default:
		return r, fmt.Errorf("unknown operation %d", op[0])
	}
	desc := d.description()
	r.Record.Key, r.Record.Address, r.Record.Meta = desc.key, desc.address, desc.meta
	if r.Delete {
		r.at = length - len(d.rest)
		return r, d.err
	}
	r.size = int(d.count())
	r.at = length - len(d.rest)
	d.bytes(uint64(r.size))
	return r, d.err
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads a number of bytes or of elements, of which each takes at least
// one byte.
func (d *decoder) count() uint64 {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.fail(errShort)
		return 0
	}
	return n
}

// below reads a number that is written as its distance from one above it.
func (d *decoder) below(top uint64) uint64 {
	distance := d.uvarint()
	if distance > top {
		d.fail(errors.New("a revision is below zero"))
		return 0
	}
	return top - distance
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.fail(errShort)
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.rest = nil
}
