// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"iter"
	"strings"

	"github.com/google/btree"
)

// record is one version of a record, without its data. It is never changed
// once it was made, so index and history share it.
type record struct {
	key, address   string
	meta, status   []byte
	revision       uint64 // Of the last change to any part.
	dataRevision   uint64 // Of the last change to data.
	storedRevision uint64 // Of the last change that the token holds: all but those of status.
}

// version names the data of a record as it was after one change.
type version struct {
	key          string
	dataRevision uint64
}

func (r *record) version() version { return version{r.key, r.dataRevision} }

// index is all records of the store at one revision, in key order. It holds no
// data. An index is never changed: the next one shares most of its nodes, and
// readers keep theirs as long as they like, without a lock.
type index struct {
	byKey, byAddress *btree.BTreeG[*record]
}

// degree 32 makes a node of 63 records; a change copies one node a level.
const degree = 32

func newIndex(records iter.Seq[*record]) index {
	x := index{
		byKey:     btree.NewG(degree, func(a, b *record) bool { return a.key < b.key }),
		byAddress: btree.NewG(degree, func(a, b *record) bool { return a.address < b.address }),
	}
	for r := range records {
		x.replace(nil, r)
	}
	return x
}

func (x index) replace(before, after *record) {
	if before != nil {
		x.byKey.Delete(before)
		if before.address != "" {
			x.byAddress.Delete(before)
		}
	}
	if after != nil {
		x.byKey.ReplaceOrInsert(after)
		if after.address != "" {
			x.byAddress.ReplaceOrInsert(after)
		}
	}
}

func (x index) clone() index {
	return index{byKey: x.byKey.Clone(), byAddress: x.byAddress.Clone()}
}

// redo gives the index after the events, which continue it.
func (x index) redo(events []event) index {
	next := x.clone()
	for _, e := range events {
		next.replace(e.before, e.after)
	}
	return next
}

// undo gives the index before the events, which are its last ones.
func (x index) undo(events []event) index {
	previous := x.clone()
	for i := len(events) - 1; i >= 0; i-- {
		previous.replace(events[i].after, events[i].before)
	}
	return previous
}

// get returns nil when there is no such record.
func (x index) get(key string) *record {
	r, _ := x.byKey.Get(&record{key: key})
	return r
}

// atAddress returns nil when no record has the address. The empty one is nobody's.
func (x index) atAddress(address string) *record {
	r, _ := x.byAddress.Get(&record{address: address})
	return r
}

// scan gives the records whose keys begin with prefix and are not below start.
func (x index) scan(prefix, start string) iter.Seq[*record] {
	return func(yield func(*record) bool) {
		x.byKey.AscendGreaterOrEqual(&record{key: max(prefix, start)}, func(r *record) bool {
			return strings.HasPrefix(r.key, prefix) && yield(r)
		})
	}
}

func (x index) len() int { return x.byKey.Len() }

// equal tells whether both hold the very same records.
func (x index) equal(other index) bool {
	if x.len() != other.len() {
		return false
	}
	for r := range x.scan("", "") {
		if other.get(r.key) != r {
			return false
		}
	}
	return true
}
