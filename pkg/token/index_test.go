// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"
	"slices"
	"testing"

	"j5t.io/hsm/pkg/token/format"
)

func located(key string, revision uint64, deleted bool) format.LocatedRecord {
	return format.LocatedRecord{Change: Change{Record: Record{Key: key, Revision: revision, Data: []byte("x")}, Delete: deleted}}
}

// indexed is an index of three commits: a and b are put, then a anew, then b is
// deleted. The first commit is dead.
func indexed() *index {
	x := newIndex(nil, nil)
	x.put(&commit{id: 2}, []format.LocatedRecord{located("a", 1, false), located("b", 2, false)})
	x.put(&commit{id: 3}, []format.LocatedRecord{located("a", 3, false)})
	x.put(&commit{id: 4}, []format.LocatedRecord{located("b", 4, true)})
	return x
}

func keys(x *index) (keys []string) {
	for r := range x.all() {
		keys = append(keys, fmt.Sprintf("%s@%d", r.Key, r.Revision))
	}
	return keys
}

func TestIndex(t *testing.T) {
	t.Parallel()
	x := indexed()
	if err := x.check(); err != nil {
		t.Fatal(err)
	}
	first := x.commits[0]
	if got := keys(x); !slices.Equal(got, []string{"a@3"}) || !first.dead() || x.head() != 4 || !x.contains(3) || x.get("b") != nil || x.entries["b"] == nil {
		t.Errorf("the index holds %v, head %d, %+v", got, x.head(), first)
	}
	// The deletion of b is needed until the put that it keeps down has gone.
	x.drop(first)
	if err := x.check(); err != nil || x.entries["b"] != nil || !x.commits[1].dead() {
		t.Errorf("without the first commit: %+v, %v", x.entries["b"], err)
	}
	// A record that is moved keeps its revision, and counts where it was moved to.
	x.put(&commit{id: 9}, []format.LocatedRecord{located("a", 3, false)})
	if err := x.check(); err != nil || !x.commits[0].dead() || x.get("a").commit.id != 9 || x.get("a").Record.Data != nil {
		t.Errorf("after the move: %+v, %v", x.get("a"), err)
	}
	// An older one does not count, wherever it is.
	x.put(&commit{id: 10}, []format.LocatedRecord{located("a", 2, false)})
	if err := x.check(); err != nil || x.get("a").Record.Revision != 3 {
		t.Errorf("after an older record: %+v, %v", x.get("a"), err)
	}
}

// TestIndexCheck breaks each of the invariants.
func TestIndexCheck(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(x *index){
		"order of commits":      func(x *index) { x.commits[0], x.commits[1] = x.commits[1], x.commits[0] },
		"commit of an entry":    func(x *index) { x.entries["a"].commit = &commit{id: 3} },
		"key of an entry":       func(x *index) { x.entries["a"].Record.Key = "b" },
		"revision of an entry":  func(x *index) { x.entries["a"].Record.Revision = 9 },
		"data in the index":     func(x *index) { x.entries["a"].Record.Data = []byte("x") },
		"needless deletion":     func(x *index) { x.commits[0].puts, x.puts = []string{"a"}, map[string]int{"a": 2} },
		"a put that nobody has": func(x *index) { x.commits[1].puts, x.puts = nil, map[string]int{"a": 1, "b": 1} },
		"count of puts":         func(x *index) { x.puts["a"]++ },
		"live records":          func(x *index) { x.commits[1].live-- },
		"records":               func(x *index) { x.commits[2].records++ },
	} {
		x := indexed()
		breakIt(x)
		if err := x.check(); err == nil {
			t.Errorf("%s: nothing was found", name)
		}
	}
}
