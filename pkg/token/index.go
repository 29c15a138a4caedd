// SPDX-License-Identifier: Apache-2.0

package token

import (
	"iter"
	"maps"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/format"
	"j5t.io/hsm/pkg/token/wal"
)

// index is the records of a store, without data, and the commits that hold them.
// Between calls these hold (tests check it after each step, export_test.go):
//
//   - commits are in ascending order of their ids, no two alike; none of them is
//     superseded. The last one is the head.
//   - The entry of a key is the newest record of it in commits: of the highest
//     revision, and of two alike, that in the later commit.
//   - A deletion has an entry only while a commit puts its key: that put must not
//     come back.
//   - puts counts the puts of a key in commits; it has no zeros.
//   - Of each commit, live is how many entries are in it, and records how many of
//     these are not deletions.
type index struct {
	entries map[string]*entry
	puts    map[string]int
	commits []*commit
}

// entry is a record in the index, without data.
type entry struct {
	format.LocatedRecord
	commit *commit
}

// movedBytes is the length of the record in another commit, at most.
func (e *entry) movedBytes() int { return e.MovedBytes(e.commit.id) }

// commit is a commit that was made, and where it lies on the token.
type commit struct {
	id      uint64
	nonce   format.Nonce
	parts   []part   // by part number: the commit segment is the first
	puts    []string // the keys it puts
	live    int
	records int
}

// part is one segment of a commit: an object, and which piece of the payload it
// holds.
type part struct {
	object
	start, size int
}

// object is an object of the store. An unread one is counted with the longest
// possible length.
type object struct {
	pkcs11.Object
	bytes int
}

func (c *commit) name() wal.CommitName { return wal.CommitName{ID: c.id, Nonce: c.nonce} }

// dead reports whether no entry is in the commit.
func (c *commit) dead() bool { return c.live == 0 }

// space is what the commit takes on the token.
func (c *commit) space() (sp space) {
	for _, p := range c.parts {
		sp = sp.add(space{1, p.bytes})
	}
	return sp
}

// newIndex makes an index of commits in ascending order.
func newIndex(commits []*commit, records map[*commit][]format.LocatedRecord) *index {
	x := &index{entries: map[string]*entry{}, puts: map[string]int{}, commits: commits}
	for _, c := range commits {
		for _, r := range records[c] {
			x.place(c, r)
		}
	}
	for key := range maps.Clone(x.entries) {
		x.dropDeletion(key)
	}
	return x
}

// get is the entry of a record; nil if there is none, or a deletion.
func (x *index) get(key string) *entry {
	if e := x.entries[key]; e != nil && !e.Delete {
		return e
	}
	return nil
}

// all gives the records in key order.
func (x *index) all() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, key := range slices.Sorted(maps.Keys(x.entries)) {
			if e := x.entries[key]; !e.Delete && !yield(e.Record) {
				return
			}
		}
	}
}

// head is the id of the newest commit; 0 if there is none.
func (x *index) head() uint64 {
	if len(x.commits) == 0 {
		return 0
	}
	return x.commits[len(x.commits)-1].id
}

func (x *index) contains(id uint64) bool {
	return slices.ContainsFunc(x.commits, func(c *commit) bool { return c.id == id })
}

// put adds a commit, newer than all others, and its records.
func (x *index) put(c *commit, records []format.LocatedRecord) {
	x.commits = append(x.commits, c)
	for _, r := range records {
		x.place(c, r)
	}
	for _, r := range records {
		x.dropDeletion(r.Record.Key)
	}
}

// place enters a record if it is the newest of its key.
func (x *index) place(c *commit, r format.LocatedRecord) {
	if !r.Delete {
		c.puts = append(c.puts, r.Record.Key)
		x.puts[r.Record.Key]++
	}
	old := x.entries[r.Record.Key]
	if old != nil && old.Record.Revision > r.Record.Revision {
		return
	}
	if old != nil {
		old.commit.live--
		if !old.Delete {
			old.commit.records--
		}
	}
	c.live++
	if !r.Delete {
		c.records++
	}
	r.Record.Data = nil
	x.entries[r.Record.Key] = &entry{r, c}
}

// drop takes out a commit that is superseded. It is dead.
func (x *index) drop(c *commit) {
	x.commits = slices.DeleteFunc(x.commits, func(other *commit) bool { return other == c })
	for _, key := range c.puts {
		if x.puts[key]--; x.puts[key] == 0 {
			delete(x.puts, key)
		}
		x.dropDeletion(key)
	}
}

// dropDeletion drops the deletion of a key that no commit puts any more.
func (x *index) dropDeletion(key string) {
	if e := x.entries[key]; e != nil && e.Delete && x.puts[key] == 0 {
		e.commit.live--
		delete(x.entries, key)
	}
}

func idsOf(commits []*commit) []uint64 {
	ids := make([]uint64, len(commits))
	for i, c := range commits {
		ids[i] = c.id
	}
	return ids
}
