// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// history has commits of one and of several parts, superseded ones, deletes.
var history = [][]token.Change{
	{put("ns/a", 10, 10), put("ns/b", 11, 500)},
	{put("ns/c", 12, 20)},
	{put("ns/a", 13, 30)},
	{put("ns/long", 14, 9000), put("ns/d", 15, 1)},
	{put("ns/c", 20, 20)},
	{put("ns/long", 21, 8000), put("ns/d", 22, 9)},
	{del("ns/a", 23)},
	{put("ns/e", 24, 5)},
}

// expectWhole checks that a store is whole, also without its log.
func (s *stick) expectWhole(what string, want content) {
	s.t.Helper()
	for _, dir := range []string{s.dir, ""} {
		c := &stick{t: s.t, token: s.token, id: s.id, dir: dir}
		store, err := c.open(token.Options{StoreID: s.id})
		if err != nil {
			s.t.Errorf("%s: opening, log %q: %v", what, dir, err)
			return
		}
		if got := read(s.t, store); !got.equal(want) {
			s.t.Errorf("%s: with log %q the store holds %v, expected %v", what, dir, got, want)
		}
	}
}

// TestLogRestores damages each object in each way, and all at once. What is
// needed is there again after the next opening, and nothing is damaged any more.
func TestLogRestores(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		s := provisionWithLog(t, p)
		want := newContent()
		for i, changes := range history {
			s.commit(changes...)
			want = want.apply(changes)
			if i < 6 {
				s.collect()
			}
		}
		superseded := s.Usage().Superseded
		if superseded == 0 {
			t.Fatal("nothing is superseded")
		}
		flash := s.token.Flash()
		check := func(what string, damage func(*faulttoken.Token), restored int) {
			t.Helper()
			c := s.clone()
			damage(c.token)
			c.reopen()
			c.expect(want)
			f := c.RecoveryReport()
			if f.Log != token.LogCurrent || restored >= 0 && len(f.Restored) != restored || len(f.Quarantined) > 0 {
				t.Errorf("%s: %+v, expected %d objects restored", what, f, restored)
			}
			c.collect()
			if c.Usage().Objects != len(flash)-superseded {
				t.Errorf("%s: %d objects are left of %d", what, c.Usage().Objects, len(flash))
			}
			c.expectWhole(what, want)
		}
		check("nothing", func(*faulttoken.Token) {}, 0)
		for _, o := range flash {
			for name, damage := range damaged {
				check(o.Label+" "+name, func(tok *faulttoken.Token) { tok.Change(o.Label, damage) }, -1)
			}
		}
		for name, damage := range damaged {
			check("all "+name, func(tok *faulttoken.Token) {
				for _, o := range flash {
					tok.Change(o.Label, damage)
				}
			}, len(flash)-superseded)
		}
	})
}

// TestLogOutlivesLostCreates: whatever number of creates a power cut undoes, no
// acknowledged commit is lost.
func TestLogOutlivesLostCreates(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		for lost := range 12 {
			for _, broken := range []bool{false, true} {
				s := provisionWithLog(t, p)
				s.token.Forget(faulttoken.Forgets{Creates: lost, Destroys: lost / 2, Broken: broken})
				want := newContent()
				for i, changes := range history {
					s.commit(changes...)
					want = want.apply(changes)
					s.collect()
					if i%3 == 2 {
						s.token.PowerCut()
						s.reopen()
						s.expect(want)
					}
				}
				s.token.PowerCut()
				s.reopen()
				s.expect(want)
				s.expectWhole(fmt.Sprintf("without the last %d creates", lost), want)
			}
		}
	})
}

// TestStaleShadow moves a token between two agents and back, with deletes in
// between. Nothing is resurrected, and nothing is lost.
func TestStaleShadow(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		a := provisionWithLog(t, p)
		b := &stick{t: t, token: a.token, id: a.id, dir: t.TempDir()}
		want := newContent()
		revision := uint64(100)
		for round := range 6 {
			for i, agent := range []*stick{a, b} {
				if agent != a || round > 0 {
					agent.reopen()
					f := agent.RecoveryReport()
					stale := token.LogStale
					if round == 0 {
						stale = token.LogNew
					}
					if f.Log != stale || len(f.Restored) > 0 {
						t.Fatalf("round %d, agent %d: %+v, expected a log that is %s", round, i, f, stale)
					}
					agent.expect(want)
				}
				for _, changes := range [][]token.Change{
					{put("ns/a", revision+1, 10), put(fmt.Sprintf("ns/%d", revision), revision+2, 30)},
					{del("ns/a", revision+3)},
					{put("ns/b", revision+4, 9000)},
					{del(fmt.Sprintf("ns/%d", revision-100), revision+5)},
					{put("ns/c", revision+6, 9)},
				} {
					agent.commit(changes...)
					want = want.apply(changes)
					if round%2 == 0 {
						agent.collect()
					}
				}
				revision += 100
				if round%3 == 2 { // Also where the token loses something on the way.
					a.token.Forget(faulttoken.Forgets{Creates: 1})
					a.token.PowerCut()
					agent.reopen()
					agent.expect(want)
				}
			}
		}
	})
}

// TestLogIsBehind: an agent that was only looked at elsewhere, or whose token
// had only its garbage collected there, goes on with its log.
func TestLogIsBehind(t *testing.T) {
	t.Parallel()
	a := provisionWithLog(t, faulttoken.Pico66)
	want := newContent()
	for _, changes := range history {
		a.commit(changes...)
		want = want.apply(changes)
	}
	b := &stick{t: t, token: a.token, id: a.id, dir: t.TempDir()}
	b.reopen()
	b.collect()
	a.token.Change("segment-0000000000000014", func(*faulttoken.Object) bool { return false })
	a.reopen()
	a.expect(want)
	if f := a.RecoveryReport(); f.Log != token.LogCurrent {
		t.Errorf("%+v", f)
	}
}

// TestLogOfAnotherStore is dropped, and nothing of it gets onto the token.
func TestLogOfAnotherStore(t *testing.T) {
	t.Parallel()
	other := provisionWithLog(t, faulttoken.Pico66)
	other.commit(put("ns/other", 1, 10))
	s := provision(t, faulttoken.Pico66)
	s.commit(put("ns/a", 1, 10))
	want := read(t, s.Store)
	s.dir = other.dir
	s.reopen()
	s.expect(want)
	if f := s.RecoveryReport(); f.Log != token.LogForeign || len(f.Restored) > 0 {
		t.Errorf("%+v", f)
	}
	s.reopen()
	if f := s.RecoveryReport(); f.Log != token.LogCurrent {
		t.Errorf("the second time %+v", f)
	}
	// The same for an agent that has served none yet.
	fresh := &stick{t: t, token: faulttoken.New(faulttoken.Pico66)}
	made, err := fresh.open(token.Options{Provision: true})
	if err != nil {
		t.Fatal(err)
	}
	fresh.dir = s.dir
	again, err := fresh.open(token.Options{Provision: true})
	if err != nil || again.ID() != made.ID() || again.RecoveryReport().Log != token.LogForeign || len(read(t, again)) > 0 {
		t.Errorf("a store made just now with the log of another: %v, %v", again, err)
	}
	// A blank token is begun anew, whatever the log says.
	blank := &stick{t: t, token: faulttoken.New(faulttoken.Pico66), dir: s.dir}
	store, err := blank.open(token.Options{Provision: true})
	if err != nil || store.ID() == s.id || len(read(t, store)) > 0 {
		t.Errorf("a blank token with the log of another: %v, %v", store, err)
	}
}

func TestReserve(t *testing.T) {
	t.Parallel()
	s := provisionWithLog(t, faulttoken.Pico66)
	reserve := func(revision uint64, calls int) {
		t.Helper()
		before := s.disk.Calls()
		if err := s.Reserve(revision, 1000); err != nil {
			t.Fatal(err)
		}
		if got := s.disk.Calls() - before; got != calls {
			t.Errorf("reserving %d took %d calls, expected %d", revision, got, calls)
		}
	}
	reserve(500, 2)
	reserve(501, 0)
	reserve(1500, 0)
	s.reopen()
	if s.Reserved() != 1500 {
		t.Errorf("after a restart %d is reserved", s.Reserved())
	}
	reserve(1501, 2)
	s.commit(put("ns/a", 9000, 1))
	if s.Reserved() != 9000 {
		t.Errorf("after commit 9000 %d is reserved", s.Reserved())
	}
	reserve(9000, 0)
	reserve(9001, 2)
	// Also when the token has been elsewhere.
	other := &stick{t: t, token: s.token, id: s.id}
	other.reopen()
	other.commit(put("ns/b", 9002, 1))
	s.reopen()
	if s.Reserved() != 10001 || s.RecoveryReport().Log != token.LogStale {
		t.Errorf("with a stale log %d is reserved", s.Reserved())
	}
	if err := other.Reserve(1<<40, 1); err != nil || other.Reserved() != 9002 {
		t.Errorf("without a log: %v, %d", err, other.Reserved())
	}
}

// TestLogIsBounded, and holds the store after thousands of commits.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	s := provisionWithLog(t, faulttoken.Pico66)
	want := newContent()
	longest := int64(0)
	for revision := uint64(1); revision <= 2000; revision++ {
		changes := []token.Change{put(fmt.Sprintf("ns/%d", revision%40), revision, 600)}
		s.commit(changes...)
		want = want.apply(changes)
		s.collect()
		info, err := os.Stat(s.logPath())
		if err != nil {
			t.Fatal(err)
		}
		longest = max(longest, info.Size())
		if revision%150 == 0 {
			s.token.Forget(faulttoken.Forgets{Creates: 3})
			s.token.PowerCut()
			s.reopen()
			s.expect(want)
		}
	}
	if limit := int64(2*s.Usage().Bytes + 80<<10); longest > limit {
		t.Errorf("the log of %d bytes grew to %d", s.Usage().Bytes, longest)
	}
	s.expectWhole("at last", want)
}

// TestRewrittenLogKeepsFailures: a commit was not made, so its caller was told, and the
// token holds it all the same, hidden until the process ends. Hundreds of commits later the
// log, rewritten more than once, still keeps it down.
func TestRewrittenLogKeepsFailures(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]faulttoken.Fault{
		"refused": {Code: pkcs11.CKRDeviceMemory, Done: true},
		"unknown": {Code: pkcs11.CKRDeviceRemoved},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := provisionWithLog(t, faulttoken.Pico66)
			s.commit(put("ns/a", s.next(), 10))
			s.token.Fail(faulttoken.Create, fault)
			failed := s.next()
			err := s.Commit([]token.Change{put("ns/b", failed, 10)})
			if reason := token.ReasonOf(err); reason != token.Full && reason != token.OutcomeUnknown {
				t.Fatal(err)
			}
			hidden := faulttoken.Object{Label: fmt.Sprintf("segment-%016x", failed), Application: application, Broken: true}
			if s.Stale() {
				s.reopen()
				if s.Contains(failed) {
					t.Fatal("the commit was made")
				}
			}
			want := read(t, s.Store)
			rewritten, last := 0, int64(0)
			for rewritten < 3 {
				change := put("ns/c", s.next(), 3000)
				s.commit(change)
				want = want.apply([]token.Change{change})
				s.collect()
				info, err := os.Stat(s.logPath())
				if err != nil {
					t.Fatal(err)
				}
				if info.Size() < last {
					rewritten++
				}
				last = info.Size()
			}
			if !slices.ContainsFunc(s.token.Flash(), func(o faulttoken.Object) bool { return o.Label == hidden.Label }) {
				s.token.Put(hidden)
			}
			s.reopen()
			s.expect(want)
			if s.Contains(failed) {
				t.Error("the commit that was not made is there")
			}
			s.expectWhole("at last", want)
		})
	}
}

// TestYoungLog: a log that was begun on a used token does not hold what was
// superseded before. When the token loses all but that, it has not moved past the
// log.
func TestYoungLog(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		a := provisionWithLog(t, p)
		want := newContent()
		for i := range uint64(3) {
			changes := []token.Change{put("ns/a", 10+i, 10)}
			a.commit(changes...)
			want = want.apply(changes)
		}
		for _, kept := range []string{"segment-000000000000000a", "segment-000000000000000b"} {
			for name, damage := range damaged {
				b := &stick{t: t, token: a.token.Clone(), id: a.id, dir: t.TempDir()}
				b.reopen()
				for _, o := range b.token.Flash() {
					if o.Label != kept {
						b.token.Change(o.Label, damage)
					}
				}
				b.reopen()
				b.expect(want)
				if f := b.RecoveryReport(); f.Log != token.LogCurrent {
					t.Errorf("all but %s %s: %+v", kept, name, f)
				}
				b.expectWhole("all but "+kept+" "+name, want)
			}
		}
	})
}
