// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/faulttoken"
)

// operation is something that changes the token. It runs on a store that
// prepare has filled; each of its commits is acknowledged or not.
type operation struct {
	name    string
	prepare [][]token.Change
	commits [][]token.Change
	tidy    bool // after each commit, and before the first
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
	// By the end of it, units of one and of several parts are superseded.
	superseding := append(slices.Clone(filled), [][]token.Change{
		{put("ns/c", 20, 20)}, {put("ns/long", 21, long+5), put("ns/d", 22, 9)}, {del("ns/a", 23)}, {put("ns/e", 24, 5)},
	}...)
	return []operation{
		{name: "first commit", commits: [][]token.Change{{put("ns/a", 1, 10)}}},
		{name: "create", prepare: filled, commits: [][]token.Change{{put("ns/e", 20, 50)}}},
		{name: "update", prepare: filled, commits: [][]token.Change{{put("ns/c", 20, 50)}}},
		{name: "delete", prepare: filled, commits: [][]token.Change{{del("ns/b", 20)}}},
		{name: "group commit", prepare: filled, commits: [][]token.Change{{put("ns/e", 20, 50), del("ns/b", 21), put("ns/c", 22, 9), del("ns/a", 23)}}},
		{name: "multi-part create", prepare: filled, commits: [][]token.Change{{put("ns/e", 20, long)}}},
		{name: "multi-part update", prepare: filled, commits: [][]token.Change{{put("ns/long", 20, long+100)}}},
		{name: "multi-part delete", prepare: filled, commits: [][]token.Change{{del("ns/long", 20)}, {put("ns/z", 21, 1)}}, tidy: true},
		{name: "tidy", prepare: superseding, tidy: true},
		{name: "history", prepare: filled, tidy: true, commits: [][]token.Change{
			{del("ns/a", 20)}, {put("ns/b", 21, 40)}, {del("ns/long", 22)}, {put("ns/a", 23, 1), del("ns/c", 24)}, {put("ns/long", 25, long)}, {del("ns/b", 26)}, {put("ns/f", 27, 3)},
		}},
	}
}

// crashPoints counts the points of all profiles; it is printed at the end of
// the package's tests.
var crashPoints struct {
	sync.Mutex
	tried, failed int
}

func countCrashPoint(t *testing.T, failure string) {
	t.Helper()
	crashPoints.Lock()
	defer crashPoints.Unlock()
	crashPoints.tried++
	if failure != "" {
		crashPoints.failed++
		t.Error(failure)
	}
}

func TestMain(m *testing.M) {
	code := m.Run()
	if crashPoints.tried > 0 {
		fmt.Printf("figure: crash-points %d\nfigure: crash-points-failed %d\n", crashPoints.tried, crashPoints.failed)
	}
	os.Exit(code)
}

// TestCrashPoints cuts the power before and after each step of each operation,
// with and without a power cut undoing the last destroys. A fresh process must
// find the state before or after the commit that was cut, all that was
// acknowledged, and all objects of others; and must be able to go on.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		for _, op := range operations(p) {
			filled := provision(t, p)
			filled.token.Put(others)
			states := []content{newContent()}
			for _, changes := range op.prepare {
				filled.commit(changes...)
				states[0] = states[0].apply(changes)
			}
			for _, changes := range op.commits {
				states = append(states, states[len(states)-1].apply(changes))
			}
			for _, forgets := range []faulttoken.Forgets{{}, {Destroys: 2}, {Destroys: 2, Broken: true}} {
				whole := crash{t: t, p: p, op: op, filled: filled, states: states, forgets: forgets}
				steps := whole.run(0, false)
				for step := 1; step <= steps; step++ {
					whole.run(step, false)
					whole.run(step, true)
				}
			}
		}
	})
}

// others is an object that is not the store's.
var others = faulttoken.Object{Label: "certificate", Application: "OpenVPN", Value: []byte("x")}

type crash struct {
	t       *testing.T
	p       faulttoken.Profile
	op      operation
	filled  *stick
	states  []content
	forgets faulttoken.Forgets
}

// run does the operation with a cut at a step, or without one if it is 0, and
// checks what is left. It returns the number of steps.
func (c *crash) run(step int, after bool) (steps int) {
	s := &stick{t: c.t, token: c.filled.token.Clone(), id: c.filled.id}
	s.reopen()
	s.token.Forget(c.forgets)
	s.token.CutAt(step, after)
	acknowledged, unknown := c.operate(s.Store)
	steps = s.token.Steps()
	if step == 0 {
		s.token.PowerCut()
	}
	failure := c.check(s, acknowledged, unknown)
	if failure != "" {
		failure = fmt.Sprintf("%s, %s, forgetting %+v, cut at step %d of %d (after it: %v): %s", c.p.Name, c.op.name, c.forgets, step, steps, after, failure)
	}
	countCrashPoint(c.t, failure)
	return steps
}

// operate returns how many commits were acknowledged, and the id of one whose
// outcome is unknown.
func (c *crash) operate(s *token.Store) (acknowledged int, unknown uint64) {
	tidy := func() bool {
		for more := c.op.tidy; more; {
			var err error
			if more, err = s.Tidy(); err != nil {
				return false
			}
		}
		return true
	}
	if !tidy() {
		return 0, 0
	}
	for _, changes := range c.op.commits {
		if err := s.Commit(changes); err != nil {
			if token.ReasonOf(err) == token.OutcomeUnknown {
				unknown = changes[len(changes)-1].Record.Revision
			}
			return acknowledged, unknown
		}
		acknowledged++
		if !tidy() {
			break
		}
	}
	return acknowledged, 0
}

// check opens the token as a fresh process does, twice, and uses it.
func (c *crash) check(s *stick, acknowledged int, unknown uint64) (failure string) {
	want := c.states[acknowledged]
	for round := range 2 {
		store, err := s.open(token.Options{StoreID: s.id})
		if err != nil {
			return fmt.Sprintf("opening number %d: %v", round, err)
		}
		if round == 0 && unknown > 0 && store.Contains(unknown) {
			want = c.states[acknowledged+1]
		}
		got, err := readAll(store)
		if err != nil || !got.equal(want) {
			return fmt.Sprintf("opening number %d: it holds %v (%v), expected %v", round, got, err, want)
		}
		if !slices.ContainsFunc(s.token.Flash(), func(o faulttoken.Object) bool {
			return o.Label == others.Label && string(o.Value) == string(others.Value)
		}) {
			return "another's object was touched"
		}
		changes := []token.Change{put("ns/again", store.Head()+1, 7), del("ns/b", store.Head()+2)}
		if err := store.Commit(changes); err != nil {
			return fmt.Sprintf("the next commit: %v", err)
		}
		want = want.apply(changes)
		for more := true; more; {
			if more, err = store.Tidy(); err != nil {
				return fmt.Sprintf("tidying: %v", err)
			}
		}
	}
	return ""
}

// TestProvisioningCrashPoints does the same while a store is made.
func TestProvisioningCrashPoints(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		attempt := func(step int, after bool) (steps int) {
			tok := faulttoken.New(p)
			tok.Put(others)
			session, err := tok.Open()
			if err != nil {
				t.Fatal(err)
			}
			tok.CutAt(step, after)
			made, err := token.Open(session, token.Options{Provision: true})
			steps = tok.Steps()
			countCrashPoint(t, func() string {
				s := &stick{t: t, token: tok}
				again, openErr := s.open(token.Options{Provision: true})
				switch {
				case openErr != nil:
					return fmt.Sprintf("%s, cut at step %d (after it: %v): opening again: %v", p.Name, step, after, openErr)
				case err == nil && again.ID() != made.ID():
					return fmt.Sprintf("%s, cut at step %d: another store was made", p.Name, step)
				case tok.KeyPairs() != 1 || len(tok.Flash()) != 2:
					return fmt.Sprintf("%s, cut at step %d: %d key pairs, %d objects", p.Name, step, tok.KeyPairs(), len(tok.Flash()))
				}
				return ""
			}())
			return steps
		}
		steps := attempt(0, false)
		for step := 1; step <= steps; step++ {
			attempt(step, false)
			attempt(step, true)
		}
	})
}

// TestLostCreates: some tokens lose, by a power cut, what they said was created.
// Nobody but a shadow can bring that back. But what is served is a state that
// was once acknowledged, or nothing is.
func TestLostCreates(t *testing.T) {
	t.Parallel()
	served, refused := 0, 0
	for _, op := range operations(faulttoken.Pico66) {
		for lost := 1; lost <= 4; lost++ {
			s := provision(t, faulttoken.Pico66)
			s.token.Forget(faulttoken.Forgets{Creates: lost})
			states := []content{newContent()}
			for _, changes := range append(slices.Clone(op.prepare), op.commits...) {
				s.commit(changes...)
				s.tidy()
				states = append(states, states[len(states)-1].apply(changes))
			}
			s.token.PowerCut()
			store, err := s.open(token.Options{StoreID: s.id})
			if err != nil {
				refused++
				if r := token.ReasonOf(err); r != token.Corrupt && r != token.Blank {
					t.Errorf("%s without the last %d creates: %v", op.name, lost, err)
				}
				continue
			}
			served++
			got := read(t, store)
			if !slices.ContainsFunc(states, got.equal) {
				t.Errorf("%s without the last %d creates: it holds %v", op.name, lost, got)
			}
		}
	}
	if served == 0 || refused == 0 {
		t.Errorf("%d stores were served and %d refused; both were expected to happen", served, refused)
	}
}
