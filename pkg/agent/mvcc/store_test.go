// SPDX-License-Identifier: Apache-2.0

package mvcc

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"
)

var wide = Limits{Events: 1 << 20, Bytes: 1 << 40, Age: time.Hour}

func newTestStore(t *testing.T, limits Limits) (*Store, *testclock.FakePassiveClock) {
	t.Helper()
	clock := testclock.NewFakePassiveClock(time.Unix(1_700_000_000, 0))
	s, err := New(clock, limits)
	if err != nil {
		t.Fatal(err)
	}
	s.Reset(NewIndex(slices.Values([]*Record(nil))), 1)
	return s, clock
}

// set puts a record, as the worker does after the token has it.
func (s *Store) set(key, data string) Event {
	x, last := s.Current()
	e := Event{Revision: last + 1, Before: x.Get(key)}
	e.After = &Record{Key: key, Meta: []byte("meta of " + key), Revision: e.Revision, DataRevision: e.Revision}
	s.Append([]Event{e}, map[Version]Sealed{e.After.Version(): s.cipher.seal(e.After.Version(), []byte(data))})
	return e
}

func (s *Store) remove(key string) Event {
	x, last := s.Current()
	e := Event{Revision: last + 1, Before: x.Get(key)}
	s.Append([]Event{e}, nil)
	return e
}

func TestEveryPastRevisionCanBeListed(t *testing.T) {
	t.Parallel()
	s, _ := newTestStore(t, wide)
	past := map[uint64]map[string]uint64{1: {}} // Revision of each key, at each revision.
	now := map[string]uint64{}
	for range 500 {
		key := fmt.Sprintf("key-%02d", rand.IntN(30))
		if _, exists := now[key]; exists && rand.IntN(3) == 0 {
			past[s.remove(key).Revision] = nil
			delete(now, key)
		} else {
			now[key] = s.set(key, "x").Revision
		}
		_, last := s.Current()
		past[last] = maps.Clone(now)
	}
	for revision, want := range past {
		x, _, err := s.At(revision)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]uint64{}
		for r := range x.Scan("", "") {
			got[r.Key] = r.Revision
		}
		if !maps.Equal(got, want) {
			t.Fatalf("revision %d holds %v, want %v", revision, got, want)
		}
	}
}

func TestScanKeepsToPrefixAndStart(t *testing.T) {
	t.Parallel()
	s, _ := newTestStore(t, wide)
	for _, key := range []string{"/a/1", "/a/2", "/a/3", "/ab/1", "/b/1"} {
		s.set(key, "")
	}
	x, _ := s.Current()
	for _, c := range []struct{ prefix, start, want string }{
		{"", "", "/a/1 /a/2 /a/3 /ab/1 /b/1"},
		{"/a/", "", "/a/1 /a/2 /a/3"},
		{"/a/", "/a/2", "/a/2 /a/3"},
		{"/a/", "/b/", ""},
		{"/b/", "/a/", "/b/1"},
		{"/c/", "", ""},
	} {
		var keys []string
		for r := range x.Scan(c.prefix, c.start) {
			keys = append(keys, r.Key)
		}
		if got := strings.Join(keys, " "); got != c.want {
			t.Errorf("scan of %q from %q gives %q, want %q", c.prefix, c.start, got, c.want)
		}
	}
}

func TestAddressesFollowTheirRecords(t *testing.T) {
	t.Parallel()
	first := &Record{Key: "a", Address: "x"}
	moved := &Record{Key: "a", Address: "y"}
	second := &Record{Key: "b", Address: "x"}
	x := NewIndex(slices.Values([]*Record{first}))
	later := x.apply([]Event{{Before: first, After: moved}, {After: second}})
	if later.AtAddress("x") != second || later.AtAddress("y") != moved || later.AtAddress("") != nil {
		t.Error("an address does not lead to its record")
	}
	if x.AtAddress("x") != first || x.AtAddress("y") != nil {
		t.Error("an index was changed after it was made")
	}
	if back := later.revert([]Event{{Before: first, After: moved}, {After: second}}); !back.Equal(x) || back.AtAddress("x") != first {
		t.Error("revert does not lead back")
	}
}

func TestReaderSeesEachEventOnce(t *testing.T) {
	t.Parallel()
	s, _ := newTestStore(t, wide)
	var want []uint64
	for i := range 100 {
		e := s.set(fmt.Sprintf("/%d/%d", i%3, i), "")
		if i%3 == 1 {
			want = append(want, e.Revision)
		}
	}
	var got []uint64
	position := uint64(1)
	for {
		events, upTo, err := s.After(position, "/1/", 7)
		if err != nil {
			t.Fatal(err)
		}
		if upTo == position {
			break
		}
		for _, e := range events {
			got = append(got, e.Revision)
		}
		position = upTo
	}
	if !slices.Equal(got, want) {
		t.Errorf("events are %v, want %v", got, want)
	}
	if _, last := s.Current(); position != last {
		t.Errorf("position is %d, want %d: past the events of others", position, last)
	}
}

func TestCompactedRevisionStaysReadable(t *testing.T) {
	t.Parallel()
	s, _ := newTestStore(t, wide)
	s.set("a", "")
	compacted := s.set("b", "").Revision
	s.set("c", "")
	if err := s.Compact(compacted); err != nil {
		t.Fatal(err)
	}
	if events, _, err := s.After(compacted, "", 10); err != nil || len(events) != 1 {
		t.Errorf("after the compacted Revision: %d events, %v", len(events), err)
	}
	if x, _, err := s.At(compacted); err != nil || x.Len() != 2 {
		t.Errorf("at the compacted Revision: %d records, %v", x.Len(), err)
	}
	_, last := s.Current()
	for revision, want := range map[uint64]Reason{
		compacted - 1: Compacted,
		last + 1:      FutureRevision,
	} {
		_, _, listErr := s.At(revision)
		_, _, watchErr := s.After(revision, "", 10)
		if ReasonOf(listErr) != want || ReasonOf(watchErr) != want {
			t.Errorf("at revision %d: %v, %v, want %s", revision, listErr, watchErr, want)
		}
	}
	if err := s.Compact(last + 1); ReasonOf(err) != FutureRevision {
		t.Errorf("compacting the future: %v", err)
	}
	if oldest, _ := s.Bounds(); oldest != compacted {
		t.Errorf("oldest revision is %d, want %d", oldest, compacted)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limits Limits
		kept   func(events int, bytes int64) bool
	}{
		"count": {Limits{Events: 10, Bytes: wide.Bytes, Age: wide.Age}, func(n int, _ int64) bool { return n == 10 }},
		"bytes": {Limits{Events: wide.Events, Bytes: 50_000, Age: wide.Age}, func(n int, b int64) bool { return n > 0 && b <= 50_000 }},
		"age":   {Limits{Events: wide.Events, Bytes: wide.Bytes, Age: 5 * time.Second}, func(n int, _ int64) bool { return n == 6 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, clock := newTestStore(t, c.limits)
			for i := range 200 {
				clock.SetTime(clock.Now().Add(time.Second))
				s.set(fmt.Sprint(i%7), strings.Repeat("x", 1000))
			}
			if !c.kept(len(s.history.events), s.history.bytes) {
				t.Errorf("history keeps %d events of %d bytes", len(s.history.events), s.history.bytes)
			}
			clock.SetTime(clock.Now().Add(2 * time.Hour))
			s.Trim()
			if len(s.history.events) != 0 || s.history.bytes != 0 || len(s.history.data) != 0 {
				t.Errorf("after all has aged, %d events, %d bytes and %d values are left",
					len(s.history.events), s.history.bytes, len(s.history.data))
			}
			if _, last := s.Current(); s.history.compacted != last {
				t.Errorf("compacted is %d, want the last revision %d", s.history.compacted, last)
			}
		})
	}
}

func TestDataLivesAsLongAsItsEvents(t *testing.T) {
	t.Parallel()
	s, _ := newTestStore(t, wide)
	first := s.set("a", "one")
	second := s.set("a", "two")
	s.remove("a")
	if err := s.Compact(first.Revision); err != nil {
		t.Fatal(err)
	}
	// The second event still speaks of it, as what was there before.
	if data, err := s.Data(first.After.Version()); err != nil || string(data) != "one" {
		t.Errorf("data is %q, %v", data, err)
	}
	if err := s.Compact(second.Revision); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Data(first.After.Version()); ReasonOf(err) != Compacted {
		t.Errorf("data of a forgotten event: %v", err)
	}
	if data, err := s.Data(second.After.Version()); err != nil || string(data) != "two" {
		t.Errorf("data is %q, %v", data, err)
	}
}

func TestSealedDataIsBoundToItsVersion(t *testing.T) {
	t.Parallel()
	s, err := newMemoryCipher()
	if err != nil {
		t.Fatal(err)
	}
	v := Version{"a", 1}
	sealed := s.seal(v, []byte("secret"))
	if data, err := s.open(v, sealed); err != nil || string(data) != "secret" {
		t.Errorf("data is %q, %v", data, err)
	}
	for _, other := range []Version{{"b", 1}, {"a", 2}} {
		if _, err := s.open(other, sealed); err == nil {
			t.Errorf("data of %v opens as that of %v", v, other)
		}
	}
}

func TestResetEndsTheHistory(t *testing.T) {
	t.Parallel()
	s, _ := newTestStore(t, wide)
	e := s.set("a", "")
	changed := s.Changed()
	x, _ := s.Current()
	s.Reset(x, e.Revision+1)
	select {
	case <-changed:
	default:
		t.Error("readers were not told of the reset")
	}
	if _, _, err := s.After(e.Revision, "", 1); ReasonOf(err) != Compacted {
		t.Errorf("reading on after a reset: %v", err)
	}
	if _, _, err := s.After(e.Revision+1, "", 1); err != nil {
		t.Errorf("reading from the reset: %v", err)
	}
}
