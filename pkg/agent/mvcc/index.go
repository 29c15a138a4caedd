// SPDX-License-Identifier: Apache-2.0

package mvcc

import (
	"iter"
	"strings"

	"github.com/google/btree"
)

// Record is one version of a record, without its data. It is never changed
// once it was made, so index and history share it.
type Record struct {
	Key, Address   string
	Meta, Status   []byte
	Revision       uint64 // Of the last change to any part.
	DataRevision   uint64 // Of the last change to data.
	StoredRevision uint64 // Of the last change that the token holds: all but those of status.
}

// Version names the data of a record as it was after one change.
type Version struct {
	Key          string
	DataRevision uint64
}

// Version names the data of the record.
func (r *Record) Version() Version { return Version{r.Key, r.DataRevision} }

// Index is all records of the store at one revision, in key order. It holds no
// data. An index is never changed: the next one shares most of its nodes, and
// readers keep theirs as long as they like, without a lock.
type Index struct {
	byKey, byAddress *btree.BTreeG[*Record]
}

// degree 32 makes a node of 63 records; a change copies one node a level.
const degree = 32

// NewIndex makes an index of records with different keys and addresses.
func NewIndex(records iter.Seq[*Record]) Index {
	x := Index{
		byKey:     btree.NewG(degree, func(a, b *Record) bool { return a.Key < b.Key }),
		byAddress: btree.NewG(degree, func(a, b *Record) bool { return a.Address < b.Address }),
	}
	for r := range records {
		x.replace(nil, r)
	}
	return x
}

func (x Index) replace(before, after *Record) {
	if before != nil {
		x.byKey.Delete(before)
		if before.Address != "" {
			x.byAddress.Delete(before)
		}
	}
	if after != nil {
		x.byKey.ReplaceOrInsert(after)
		if after.Address != "" {
			x.byAddress.ReplaceOrInsert(after)
		}
	}
}

func (x Index) clone() Index {
	return Index{byKey: x.byKey.Clone(), byAddress: x.byAddress.Clone()}
}

// apply returns the index after the events, which continue it.
func (x Index) apply(events []Event) Index {
	next := x.clone()
	for _, e := range events {
		next.replace(e.Before, e.After)
	}
	return next
}

// revert returns the index before the events, which are its last ones.
func (x Index) revert(events []Event) Index {
	previous := x.clone()
	for i := len(events) - 1; i >= 0; i-- {
		previous.replace(events[i].After, events[i].Before)
	}
	return previous
}

// Get returns nil when there is no such record.
func (x Index) Get(key string) *Record {
	r, _ := x.byKey.Get(&Record{Key: key})
	return r
}

// AtAddress returns nil when no record has the address. The empty one is nobody's.
func (x Index) AtAddress(address string) *Record {
	r, _ := x.byAddress.Get(&Record{Address: address})
	return r
}

// Scan yields the records whose keys begin with prefix and are not below start.
func (x Index) Scan(prefix, start string) iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		x.byKey.AscendGreaterOrEqual(&Record{Key: max(prefix, start)}, func(r *Record) bool {
			return strings.HasPrefix(r.Key, prefix) && yield(r)
		})
	}
}

// Len is the number of records.
func (x Index) Len() int { return x.byKey.Len() }

// Equal reports whether both hold the very same records.
func (x Index) Equal(other Index) bool {
	if x.Len() != other.Len() {
		return false
	}
	for r := range x.Scan("", "") {
		if other.Get(r.Key) != r {
			return false
		}
	}
	return true
}
