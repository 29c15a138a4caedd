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
	"j5t.io/hsm/pkg/token/wal"
	"j5t.io/hsm/test/framework/faulttoken"
)

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
					s := provisionWithLog(t, p)
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
							s.collect()
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
	s := provisionWithLog(t, faulttoken.Pico66)
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
		s.collect()
		s.commit(put("ns/b", s.Head()+1, 10))
		want = read(t, s.Store)
		s.collect()
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

// TestDiskFull: without a log nothing is written, and reads go on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := provisionWithLog(t, faulttoken.Pico66)
	s.commit(put("ns/a", 1, 10))
	want := read(t, s.Store)
	disk := &fullDisk{}
	open := func() *token.Store {
		t.Helper()
		session, err := s.token.Open()
		if err != nil {
			t.Fatal(err)
		}
		store, err := token.Open(session, token.Options{StoreID: s.id, Log: wal.New(disk, s.logPath())})
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
	if err := s.Reserve(1<<40, 0); token.ReasonOf(err) != token.LogFailed {
		t.Errorf("reserving gave %v", err)
	}
	disk.full = false
	s.Store = open()
	s.commit(put("ns/a", 3, 10))
	s.expectWhole("at last", want.apply([]token.Change{put("ns/a", 3, 10)}))
}

// TestOversizedLogOnAFullDisk: rewriting the log is housekeeping. While it fails, the
// store is opened, and read.
func TestOversizedLogOnAFullDisk(t *testing.T) {
	t.Parallel()
	s := provisionWithLog(t, faulttoken.Pico66)
	for revision := uint64(1); revision <= 60; revision++ {
		s.commit(put("ns/a", revision, 3000))
		for s.Usage().Superseded > 0 { // but the log is not rewritten
			if _, err := s.CollectGarbage(); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := read(t, s.Store)
	session, err := s.token.Open()
	if err != nil {
		t.Fatal(err)
	}
	disk := &fullDisk{full: true}
	store, err := token.Open(session, token.Options{StoreID: s.id, Log: wal.New(disk, s.logPath())})
	if err != nil {
		t.Fatal(err)
	}
	var housekeeping *token.HousekeepingError
	if _, err := store.CollectGarbage(); !errors.As(err, &housekeeping) || token.ReasonOf(err) != token.LogFailed {
		t.Errorf("collecting garbage gave %v", err)
	}
	s.Store = store
	s.expect(want)
	before := disk.size(t, s.logPath())
	disk.full = false
	s.collect()
	if after := disk.size(t, s.logPath()); after >= before/2 {
		t.Errorf("the log of %d bytes still has %d", before, after)
	}
	s.expectWhole("at last", want)
}

func (*fullDisk) size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
