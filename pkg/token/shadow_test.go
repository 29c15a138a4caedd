// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/pkg/token/shadow"
	"j5t.io/hsm/test/faulttoken"
)

// history has units of one and of several parts, superseded ones, deletes.
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

// expectWhole checks that a store is whole, also without its shadow.
func (s *stick) expectWhole(what string, want content) {
	s.t.Helper()
	for _, dir := range []string{s.dir, ""} {
		c := &stick{t: s.t, token: s.token, id: s.id, dir: dir}
		store, err := c.open(token.Options{StoreID: s.id})
		if err != nil {
			s.t.Errorf("%s: opening, shadow %q: %v", what, dir, err)
			return
		}
		if got := read(s.t, store); !got.equal(want) {
			s.t.Errorf("%s: with shadow %q the store holds %v, expected %v", what, dir, got, want)
		}
	}
}

// TestShadowRestores damages each object in each way, and all at once. What is
// needed is there again after the next opening, and nothing is damaged any more.
func TestShadowRestores(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		s := provisionWithShadow(t, p)
		want := newContent()
		for i, changes := range history {
			s.commit(changes...)
			want = want.apply(changes)
			if i < 6 {
				s.tidy()
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
			f := c.Findings()
			if f.Shadow != token.ShadowCurrent || restored >= 0 && len(f.Restored) != restored || len(f.Quarantined) > 0 {
				t.Errorf("%s: %+v, expected %d objects restored", what, f, restored)
			}
			c.tidy()
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

// TestShadowOutlivesLostCreates: whatever number of creates a power cut undoes, no
// acknowledged commit is lost.
func TestShadowOutlivesLostCreates(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		for lost := range 12 {
			for _, broken := range []bool{false, true} {
				s := provisionWithShadow(t, p)
				s.token.Forget(faulttoken.Forgets{Creates: lost, Destroys: lost / 2, Broken: broken})
				want := newContent()
				for i, changes := range history {
					s.commit(changes...)
					want = want.apply(changes)
					s.tidy()
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
		a := provisionWithShadow(t, p)
		b := &stick{t: t, token: a.token, id: a.id, dir: t.TempDir()}
		want := newContent()
		revision := uint64(100)
		for round := range 6 {
			for i, agent := range []*stick{a, b} {
				if agent != a || round > 0 {
					agent.reopen()
					f := agent.Findings()
					stale := token.ShadowStale
					if round == 0 {
						stale = token.ShadowNew
					}
					if f.Shadow != stale || len(f.Restored) > 0 {
						t.Fatalf("round %d, agent %d: %+v, expected a shadow that is %s", round, i, f, stale)
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
						agent.tidy()
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

// TestShadowIsBehind: an agent that was only looked at elsewhere, or whose token
// was only tidied there, goes on with its shadow.
func TestShadowIsBehind(t *testing.T) {
	t.Parallel()
	a := provisionWithShadow(t, faulttoken.Pico66)
	want := newContent()
	for _, changes := range history {
		a.commit(changes...)
		want = want.apply(changes)
	}
	b := &stick{t: t, token: a.token, id: a.id, dir: t.TempDir()}
	b.reopen()
	b.tidy()
	a.token.Change("segment-0000000000000014", func(*faulttoken.Object) bool { return false })
	a.reopen()
	a.expect(want)
	if f := a.Findings(); f.Shadow != token.ShadowCurrent {
		t.Errorf("%+v", f)
	}
}

// TestShadowOfAnotherStore is dropped, and nothing of it gets onto the token.
func TestShadowOfAnotherStore(t *testing.T) {
	t.Parallel()
	other := provisionWithShadow(t, faulttoken.Pico66)
	other.commit(put("ns/other", 1, 10))
	s := provision(t, faulttoken.Pico66)
	s.commit(put("ns/a", 1, 10))
	want := read(t, s.Store)
	s.dir = other.dir
	s.reopen()
	s.expect(want)
	if f := s.Findings(); f.Shadow != token.ShadowForeign || len(f.Restored) > 0 {
		t.Errorf("%+v", f)
	}
	s.reopen()
	if f := s.Findings(); f.Shadow != token.ShadowCurrent {
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
	if err != nil || again.ID() != made.ID() || again.Findings().Shadow != token.ShadowForeign || len(read(t, again)) > 0 {
		t.Errorf("a store made just now with the shadow of another: %v, %v", again, err)
	}
	// A blank token is begun anew, whatever the shadow says.
	blank := &stick{t: t, token: faulttoken.New(faulttoken.Pico66), dir: s.dir}
	store, err := blank.open(token.Options{Provision: true})
	if err != nil || store.ID() == s.id || len(read(t, store)) > 0 {
		t.Errorf("a blank token with the shadow of another: %v, %v", store, err)
	}
}

// TestFailedWriteIsNotResurrected: a create fails in every way, done or not; then
// the agent restarts, again and again. What was reported as failed never is, and
// what was reported as unknown is the same for ever.
func TestFailedWriteIsNotResurrected(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		for _, code := range []uint{
			pkcs11.CKRGeneralError, pkcs11.CKRDeviceRemoved, pkcs11.CKRUserNotLoggedIn,
			pkcs11.CKRFunctionFailed, pkcs11.CKRDeviceMemory, pkcs11.CKRDataLenRange,
		} {
			for _, done := range []bool{false, true} {
				for part := range 3 { // of three, the last one first
					name := fmt.Sprintf("code %#x, done %v, create %d", code, done, part)
					s := provisionWithShadow(t, p)
					s.commit(put("ns/a", 1, 10))
					before := read(t, s.Store)
					size := 2*s.Usage().Profile.SegmentBytes + 9
					changes := []token.Change{put("ns/a", 2, size), put("ns/b", 3, 5)}
					after := before.apply(changes)
					failNth(s.token, part, faulttoken.Fault{Code: code, Done: done})
					err := s.Commit(changes)
					reason := token.ReasonOf(err)
					want := before
					switch {
					case err == nil:
						want = after
					case reason == token.Full || reason == token.TooLarge:
						s.expect(before)
					}
					for round := range 3 {
						s.reopen()
						if round == 0 && reason == token.OutcomeUnknown && s.Contains(3) {
							want = after
						}
						s.expect(want)
						if s.Contains(3) != want.equal(after) {
							t.Errorf("%s: round %d: the commit is there: %v", name, round, s.Contains(3))
						}
						if round == 1 {
							more := []token.Change{put("ns/c", 10, 5)}
							s.commit(more...)
							want = want.apply(more)
							s.tidy()
							break
						}
					}
					s.expectWhole(name, want)
				}
			}
		}
	})
}

// failNth lets the creates before number n work.
func failNth(tok *faulttoken.Token, n int, f faulttoken.Fault) {
	for range n {
		tok.Fail(faulttoken.Create, faulttoken.Fault{})
	}
	tok.Fail(faulttoken.Create, f)
}

// TestQuarantine: damaged objects that are not of the store are left alone.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	s := provisionWithShadow(t, faulttoken.Pico66)
	s.commit(put("ns/a", 10, 10))
	s.commit(put("ns/b", 11, 10))
	want := read(t, s.Store)
	strange := []faulttoken.Object{
		{Label: "segment-0000000000000003", Application: application, Value: []byte("torn")},
		{Label: "segment-0000000000000004", Application: application, Broken: true},
		{Label: "segment-000000000000000a-0007", Application: application, Value: make([]byte, 100)},
	}
	for _, o := range strange {
		s.token.Put(o)
	}
	for range 2 {
		s.reopen()
		s.expect(want)
		s.tidy()
		s.commit(put("ns/b", s.Head()+1, 10))
		want = read(t, s.Store)
		s.tidy()
	}
	if u := s.Usage(); u.Quarantined != 2 {
		t.Errorf("usage is %+v", u)
	}
	for _, o := range strange[:2] {
		if !slices.ContainsFunc(s.token.Flash(), func(f faulttoken.Object) bool { return f.Label == o.Label }) {
			t.Errorf("object %q was destroyed", o.Label)
		}
	}
	// What is newer than the newest commit may be one that was made elsewhere.
	s.token.Put(faulttoken.Object{Label: "segment-00000000000000ff", Application: application, Value: []byte("torn")})
	before := s.token.Flash()
	if _, err := s.open(token.Options{StoreID: s.id}); token.ReasonOf(err) != token.Corrupt || !sameFlash(before, s.token.Flash()) {
		t.Errorf("a torn commit after the newest one: %v", err)
	}
}

func TestReserve(t *testing.T) {
	t.Parallel()
	s := provisionWithShadow(t, faulttoken.Pico66)
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
	if s.Reserved() != 10001 || s.Findings().Shadow != token.ShadowStale {
		t.Errorf("with a stale shadow %d is reserved", s.Reserved())
	}
	if err := other.Reserve(1<<40, 1); err != nil || other.Reserved() != 9002 {
		t.Errorf("without a shadow: %v, %d", err, other.Reserved())
	}
}

// TestShadowIsBounded, and holds the store after thousands of commits.
func TestShadowIsBounded(t *testing.T) {
	t.Parallel()
	s := provisionWithShadow(t, faulttoken.Pico66)
	want := newContent()
	longest := int64(0)
	for revision := uint64(1); revision <= 2000; revision++ {
		changes := []token.Change{put(fmt.Sprintf("ns/%d", revision%40), revision, 600)}
		s.commit(changes...)
		want = want.apply(changes)
		s.tidy()
		info, err := os.Stat(s.shadowPath())
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
		t.Errorf("the shadow of %d bytes grew to %d", s.Usage().Bytes, longest)
	}
	s.expectWhole("at last", want)
}

// fullDisk refuses to write from some call on.
type fullDisk struct {
	atomicfile.OS
	full bool
}

var errNoSpace = errors.New("no space left on device")

func (f *fullDisk) Write(path string, content []byte) error {
	if f.full {
		return errNoSpace
	}
	return f.OS.Write(path, content)
}

func (f *fullDisk) Append(path string, content []byte) error {
	if f.full {
		return errNoSpace
	}
	return f.OS.Append(path, content)
}

// TestDiskFull: without a shadow nothing is written, and reads go on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := provisionWithShadow(t, faulttoken.Pico66)
	s.commit(put("ns/a", 1, 10))
	want := read(t, s.Store)
	disk := &fullDisk{}
	open := func() *token.Store {
		t.Helper()
		session, err := s.token.Open()
		if err != nil {
			t.Fatal(err)
		}
		store, err := token.Open(session, token.Options{StoreID: s.id, Shadow: shadow.New(disk, s.shadowPath())})
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	s.Store = open()
	disk.full = true
	before := s.token.Counters().Calls[faulttoken.Create]
	err := s.Commit([]token.Change{put("ns/a", 2, 10)})
	if r := token.ReasonOf(err); r != token.OutcomeUnknown || !errors.Is(err, errNoSpace) {
		t.Errorf("a commit gave %v", err)
	}
	if got := s.token.Counters().Calls[faulttoken.Create]; got != before {
		t.Errorf("the token was written to")
	}
	s.Store = open()
	s.expect(want)
	if err := s.Reserve(1<<40, 0); token.ReasonOf(err) != token.ShadowFailed {
		t.Errorf("reserving gave %v", err)
	}
	disk.full = false
	s.Store = open()
	s.commit(put("ns/a", 3, 10))
	s.expectWhole("at last", want.apply([]token.Change{put("ns/a", 3, 10)}))
}
