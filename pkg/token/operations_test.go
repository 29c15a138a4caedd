// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"slices"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// operation is something that changes the token. It runs on a store that
// prepare has filled; each of its commits is acknowledged or not.
type operation struct {
	name    string
	profile token.Profile // Zero: that of the token.
	prepare [][]token.Change
	// elsewhere is commits that were made without the log, after prepare.
	elsewhere [][]token.Change
	damage    func(*faulttoken.Token) // before the store is opened, or scrubbed
	scrub     bool
	commits   [][]token.Change
	collect   bool // after each commit, and before the first
	compact   bool // the same
}

func operations(p faulttoken.Profile) []operation {
	long := 9000 // three parts, or eight
	if p.Name == faulttoken.SoftHSM.Name {
		long = 65 << 10 // two
	}
	filled := [][]token.Change{
		{put("ns/a", 10, 10), put("ns/b", 11, 500)},
		{put("ns/c", 12, 20)},
		{put("ns/a", 13, 30)},
		{put("ns/long", 14, long), put("ns/d", 15, 1)},
	}
	// By the end of it, commits of one and of several parts are superseded.
	superseding := append(slices.Clone(filled), [][]token.Change{
		{put("ns/c", 20, 20)}, {put("ns/long", 21, long+5), put("ns/d", 22, 9)}, {del("ns/a", 23)}, {put("ns/e", 24, 5)},
	}...)
	small := token.Profile{Name: "small", Objects: 16, Reserve: 6, SegmentBytes: 900, RecordBytes: 9000}
	var crowded [][]token.Change
	for i := range uint64(9) {
		crowded = append(crowded, []token.Change{put(fmt.Sprintf("ns/%d", i), 10+i, 100)})
	}
	var bloated [][]token.Change
	for i := range uint64(11) {
		bloated = append(bloated, []token.Change{put("ns/long", 10+i, 8000)})
	}
	if p.Name == faulttoken.SoftHSM.Name {
		bloated = [][]token.Change{{put("ns/long", 10, 80<<10)}, {put("ns/b", 11, 9)}, {put("ns/long", 12, 10)}}
	}
	lose := func(*faulttoken.Object) bool { return false }
	tear := func(o *faulttoken.Object) bool { o.Value = o.Value[:60]; return true }
	halve := func(o *faulttoken.Object) bool { o.Broken = true; return true }
	someDamage := func(t *faulttoken.Token) {
		t.Change("segment-000000000000000f-0001", lose)
		t.Change("segment-000000000000000b", tear)
		t.Change("segment-000000000000000f", halve)
	}
	return []operation{
		{name: "first commit", commits: [][]token.Change{{put("ns/a", 1, 10)}}},
		{name: "create", prepare: filled, commits: [][]token.Change{{put("ns/e", 20, 50)}}},
		{name: "update", prepare: filled, commits: [][]token.Change{{put("ns/c", 20, 50)}}},
		{name: "delete", prepare: filled, commits: [][]token.Change{{del("ns/b", 20)}}},
		{name: "group commit", prepare: filled, commits: [][]token.Change{{put("ns/e", 20, 50), del("ns/b", 21), put("ns/c", 22, 9), del("ns/a", 23)}}},
		{name: "multi-part create", prepare: filled, commits: [][]token.Change{{put("ns/e", 20, long)}}},
		{name: "multi-part update", prepare: filled, commits: [][]token.Change{{put("ns/long", 20, long+100)}}},
		{name: "multi-part delete", prepare: filled, commits: [][]token.Change{{del("ns/long", 20)}, {put("ns/z", 21, 1)}}, collect: true},
		{name: "collect", prepare: superseding, collect: true},
		{name: "history", prepare: filled, collect: true, commits: [][]token.Change{
			{put("ns/b", 20, 40)}, {del("ns/long", 21)}, {put("ns/a", 22, 1), del("ns/c", 23)}, {put("ns/long", 24, long)},
		}},
		{name: "compaction", profile: small, prepare: crowded, compact: true, commits: [][]token.Change{{put("ns/3", 1000, 100)}, {del("ns/5", 2000)}}},
		{name: "repair", prepare: filled, damage: someDamage},
		{name: "repair of all", prepare: filled, damage: func(t *faulttoken.Token) {
			for _, o := range t.Flash() {
				if o.Application == application {
					t.Change(o.Label, lose)
				}
			}
		}},
		{name: "scrub", prepare: filled, damage: someDamage, scrub: true, commits: [][]token.Change{{put("ns/e", 20, 50)}}},
		{name: "log rewrite", prepare: filled, elsewhere: [][]token.Change{{del("ns/a", 20)}, {put("ns/long", 21, long)}}, commits: [][]token.Change{{put("ns/e", 30, 50)}}},
		{name: "log compaction", prepare: bloated, collect: true, commits: [][]token.Change{{put("ns/e", 30, 50)}}},
	}
}

// fill makes the store that the operation begins with, and the states that it
// goes through.
func (o *operation) fill(t *testing.T, p faulttoken.Profile) (filled *stick, states []content) {
	filled = provisionWithLog(t, p)
	filled.token.Put(others)
	states = []content{newContent()}
	for _, changes := range o.prepare {
		filled.commit(changes...)
		states[0] = states[0].apply(changes)
		for filled.Usage().Superseded > 16 {
			if _, err := filled.CollectGarbage(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(o.elsewhere) > 0 {
		other := &stick{t: t, token: filled.token, id: filled.id}
		other.reopen()
		for _, changes := range o.elsewhere {
			other.commit(changes...)
			states[0] = states[0].apply(changes)
		}
	}
	if o.damage != nil && !o.scrub {
		o.damage(filled.token)
	}
	for _, changes := range o.commits {
		states = append(states, states[len(states)-1].apply(changes))
	}
	return filled, states
}

// housekeep does what the operation has beside commits; false if it failed.
func (o *operation) housekeep(store *token.Store) bool {
	var err error
	for more := o.collect; more && err == nil; {
		more, err = store.CollectGarbage()
	}
	if err == nil && o.compact {
		err = compactAll(store)
	}
	return err == nil
}

func compactAll(store *token.Store) (err error) {
	for more := true; more && err == nil; {
		more, err = store.Compact(func() uint64 { return store.Reserved() + 1 })
	}
	return err
}
