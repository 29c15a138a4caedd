// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/pkg/token/wal"
	"j5t.io/hsm/test/framework/faultfs"
	"j5t.io/hsm/test/framework/faulttoken"
)

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
	if n := model.histories.Load(); n > 0 && !testing.Short() {
		fmt.Printf("figure: model-histories %d\nfigure: model-violations %d\n", n, model.violations.Load())
	}
	if crashPoints.tried > 0 && !testing.Short() {
		fmt.Printf("figure: crash-points %d\nfigure: crash-points-failed %d\n", crashPoints.tried, crashPoints.failed)
	}
	os.Exit(code)
}

// scenario is how things go down, and what is left then.
type scenario struct {
	name    string
	log     bool
	machine bool // The agent goes down with the token, and the token with the agent.
	forgets faulttoken.Forgets
}

// scenarios are all, or one where the race detector has each take eight times as long.
func scenarios() []scenario {
	all := []scenario{
		{name: "token alone, no log"},
		{name: "token alone, no log, destroys undone", forgets: faulttoken.Forgets{Destroys: 2}},
		{name: "token alone, no log, destroys half undone", forgets: faulttoken.Forgets{Destroys: 2, Broken: true}},
		{name: "token alone", log: true},
		{name: "token alone, last calls undone", log: true, forgets: faulttoken.Forgets{Creates: 2, Destroys: 2, Broken: true}},
		{name: "machine", log: true, machine: true},
		{name: "machine, last calls undone", log: true, machine: true, forgets: faulttoken.Forgets{Creates: 1, Destroys: 2}},
	}
	if testing.Short() {
		return all[len(all)-1:]
	}
	return all
}

// TestCrashPoints stops before and after each step of each operation, of the
// token and of the file system, in all scenarios. (When all goes down at once,
// after a step is before the next one.) A fresh process must find the
// state before or after the commit that was cut, all that was acknowledged,
// nothing that was reported as failed, and all objects of others; and must be able
// to go on.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		for _, op := range operations(p) {
			filled, states := op.fill(t, p)
			for _, sc := range scenarios() {
				if op.damage != nil && !sc.log {
					continue
				}
				whole := crash{t: t, p: p, op: op, filled: filled, states: states, scenario: sc}
				steps, calls := whole.run(stop{})
				if whole.destroys == 0 && sc.forgets.Creates == 0 && sc.forgets.Destroys > 0 {
					continue // There is none to undo.
				}
				for step := 1; step <= steps; step++ {
					whole.run(stop{step: step})
					if !sc.machine || step == steps {
						whole.run(stop{step: step, after: true})
					}
				}
				for call := 1; sc.machine && call <= calls; call++ {
					whole.run(stop{call: call, moment: faultfs.Before})
					whole.run(stop{call: call, moment: faultfs.Halfway})
					if call == calls {
						whole.run(stop{call: call, moment: faultfs.After})
					}
				}
			}
		}
	})
}

// others is an object that is not the store's.
var others = faulttoken.Object{Label: "certificate", Application: "OpenVPN", Value: []byte("x")}

// stop is where things go down: at a step of the token, or at a call of the file
// system.
type stop struct {
	step   int
	after  bool
	call   int
	moment faultfs.Moment
}

type crash struct {
	scenario
	t      *testing.T
	p      faulttoken.Profile
	op     operation
	filled *stick
	states []content
	// destroys is how many objects the last run has destroyed.
	destroys int
}

// run does the operation with a stop, or without one, and checks what is left. It
// returns the number of steps of the token and of calls of the file system.
func (c *crash) run(at stop) (steps, calls int) {
	s := c.filled.clone()
	s.profile = c.op.profile
	if !c.log {
		s.dir = ""
	}
	s.token.Forget(c.forgets)
	disk := &machine{FS: faultfs.New(at.call, at.moment), token: s.token, whole: c.machine}
	session, err := s.token.Open()
	if err != nil {
		c.t.Fatal(err)
	}
	s.token.CutAt(at.step, at.after)
	before := s.token.Counters().Calls[faulttoken.Destroy]
	acknowledged, unknown := c.operate(s, disk, session)
	c.destroys = s.token.Counters().Calls[faulttoken.Destroy] - before
	steps, calls = s.token.Steps(), disk.Calls()
	if !s.token.Cut() {
		s.token.PowerCut()
	}
	disk.Stop()
	failure := c.check(s, acknowledged, unknown)
	if failure != "" {
		failure = fmt.Sprintf("%s, %s, %s, stop %+v of %d steps and %d calls: %s", c.p.Name, c.op.name, c.name, at, steps, calls, failure)
	}
	countCrashPoint(c.t, failure)
	return steps, calls
}

// machine is the file system of an agent that may go down together with its token.
type machine struct {
	*faultfs.FS
	token *faulttoken.Token
	whole bool
}

// power lets both go down when one of them has.
func (m *machine) power(call func() error) error {
	if m.whole && m.token.Cut() {
		m.Stop()
	}
	err := call()
	if m.whole && m.Stopped() && !m.token.Cut() {
		m.token.PowerCut()
	}
	return err
}

func (m *machine) Write(path string, content []byte) error {
	return m.power(func() error { return m.FS.Write(path, content) })
}

func (m *machine) Append(path string, content []byte) error {
	return m.power(func() error { return m.FS.Append(path, content) })
}

func (m *machine) Sync(path string) error { return m.power(func() error { return m.FS.Sync(path) }) }

func (m *machine) Rename(from, to string) error {
	return m.power(func() error { return m.FS.Rename(from, to) })
}

func (m *machine) SyncDir(dir string) error {
	return m.power(func() error { return m.FS.SyncDir(dir) })
}

// operate opens the store and does the operation. It returns how many commits
// were acknowledged, and the id of one whose outcome is unknown.
func (c *crash) operate(s *stick, disk *machine, session token.Device) (acknowledged int, unknown uint64) {
	o := token.Options{StoreID: s.id, Profile: c.op.profile}
	if c.log {
		o.Log = wal.New(disk, s.logPath())
	}
	store, err := token.Open(session, o)
	if err == nil && c.op.scrub && !s.token.Cut() {
		c.op.damage(s.token)
		if session, err = s.token.Open(); err == nil {
			_, err = store.Scrub(session)
		}
	}
	if err != nil || !c.op.housekeep(store) {
		return 0, 0
	}
	for _, changes := range c.op.commits {
		if err := store.Commit(changes); err != nil {
			// Nobody hears what an agent says that goes down.
			if token.ReasonOf(err) == token.OutcomeUnknown || c.machine {
				unknown = changes[len(changes)-1].Record.Revision
			}
			return acknowledged, unknown
		}
		acknowledged++
		if !c.op.housekeep(store) {
			break
		}
	}
	return acknowledged, 0
}

// check opens the token as a fresh process does, twice, uses it, and looks at what
// comes of that.
func (c *crash) check(s *stick, acknowledged int, unknown uint64) (failure string) {
	want := c.states[acknowledged]
	for round := range 3 {
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
		if round != 1 {
			continue
		}
		if err := compactAll(store); err != nil {
			return fmt.Sprintf("compaction: %v", err)
		}
		changes := []token.Change{put("ns/again", store.Reserved()+1, 7), del("ns/b", store.Reserved()+2)}
		if err := store.Commit(changes); err != nil {
			return fmt.Sprintf("the next commit: %v", err)
		}
		want = want.apply(changes)
		if err := compactAll(store); err != nil {
			return fmt.Sprintf("compaction after it: %v", err)
		}
	}
	return ""
}

// TestProvisioningCrashPoints does the same while a store is made.
func TestProvisioningCrashPoints(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		for _, sc := range scenarios() {
			attempt := func(at stop) (steps, calls int) {
				s := &stick{t: t, token: faulttoken.New(p)}
				o := token.Options{Provision: true}
				disk := &machine{FS: faultfs.New(at.call, at.moment), token: s.token, whole: sc.machine}
				if sc.log {
					s.dir = t.TempDir()
					o.Log = wal.New(disk, s.logPath())
				}
				s.token.Put(others)
				session, err := s.token.Open()
				if err != nil {
					t.Fatal(err)
				}
				s.token.Forget(sc.forgets)
				s.token.CutAt(at.step, at.after)
				made, err := token.Open(session, o)
				steps, calls = s.token.Steps(), disk.Calls()
				disk.Stop()
				countCrashPoint(t, func() string {
					again, openErr := s.open(token.Options{Provision: true})
					what := fmt.Sprintf("%s, %s, stop %+v: ", p.Name, sc.name, at)
					switch {
					case openErr != nil:
						return fmt.Sprintf("%sopening again: %v", what, openErr)
					case err == nil && again.ID() != made.ID():
						return what + "another store was made"
					case s.token.KeyPairs() != 1 || len(s.token.Flash()) != 2:
						return fmt.Sprintf("%s%d key pairs, %d objects", what, s.token.KeyPairs(), len(s.token.Flash()))
					}
					return ""
				}())
				return steps, calls
			}
			steps, calls := attempt(stop{})
			for step := 1; step <= steps; step++ {
				attempt(stop{step: step})
				attempt(stop{step: step, after: true})
			}
			for call := 1; sc.machine && call <= calls; call++ {
				for _, moment := range []faultfs.Moment{faultfs.Before, faultfs.Halfway, faultfs.After} {
					attempt(stop{call: call, moment: moment})
				}
			}
		}
	})
}

// TestLostCreates: some tokens lose, by a power cut, what they said was created.
// Nobody but a log can bring that back. But what is served is a state that
// was once acknowledged, or nothing is.
func TestLostCreates(t *testing.T) {
	t.Parallel()
	served, refused := 0, 0
	for _, op := range operations(faulttoken.Pico66) {
		for lost := 1; lost <= 4; lost++ {
			s := provision(t, faulttoken.Pico66)
			s.token.Forget(faulttoken.Forgets{Creates: lost})
			states := []content{newContent()}
			s.profile = op.profile
			s.reopen()
			for _, changes := range append(slices.Clone(op.prepare), op.commits...) {
				s.commit(changes...)
				s.collect()
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
