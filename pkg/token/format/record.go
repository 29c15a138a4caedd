// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/binary"
	"fmt"
)

const (
	opPut    = 1
	opDelete = 2
)

// Record is what the store keeps under a key.
type Record struct {
	Key     string // 1 to MaxKeyBytes
	Address string // at most MaxKeyBytes
	// Meta is compressed, and kept in memory. Nothing secret; at most MaxMetaBytes.
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

// LocatedRecord is a change, and where in the payload of its commit its data lies.
type LocatedRecord struct {
	Change
	At, Size int // of the data
	Length   int // of the encoded record
}

// MovedBytes is how long the record, which is in the commit, is in another one; at
// most.
func (r *LocatedRecord) MovedBytes(commit uint64) int {
	return r.Length - uvarintLen(commit-r.Record.Revision) + binary.MaxVarintLen64
}

// append encodes a record of a commit, and sets where its data lies in b.
func (r *LocatedRecord) append(b []byte, commit uint64) []byte {
	begin := len(b)
	op := byte(opPut)
	if r.Delete {
		op = opDelete
	}
	b = append(b, op)
	b = binary.AppendUvarint(b, commit-r.Record.Revision)
	if r.Delete {
		b = appendDescription(b, description{key: r.Record.Key})
		r.Size = 0
	} else {
		b = binary.AppendUvarint(b, r.Record.Revision-r.Record.DataRevision)
		b = appendDescription(b, description{key: r.Record.Key, address: r.Record.Address, meta: r.Record.Meta})
		b = binary.AppendUvarint(b, uint64(len(r.Record.Data)))
		r.Size = len(r.Record.Data)
	}
	r.At = len(b)
	if !r.Delete {
		b = append(b, r.Record.Data...)
	}
	r.Length = len(b) - begin
	return b
}

// record reads a record of a payload of that length. It comes without data.
func (d *decoder) record(commit uint64, length int) (LocatedRecord, error) {
	var r LocatedRecord
	begin := len(d.rest)
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
	if !r.Delete {
		r.Size = int(d.count())
	}
	r.At = length - len(d.rest)
	if !r.Delete {
		d.bytes(uint64(r.Size))
	}
	r.Length = begin - len(d.rest)
	return r, d.err
}
