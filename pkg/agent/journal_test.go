// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

var wide = HistoryLimits{Events: 1 << 20, Bytes: 1 << 40, Age: time.Hour}

func newTestJournal(t *testing.T, limits HistoryLimits) (*journal, *testclock.FakePassiveClock) {
	t.Helper()
	clock := testclock.NewFakePassiveClock(time.Unix(1_700_000_000, 0))
	j, err := newJournal(clock, limits)
	if err != nil {
		t.Fatal(err)
	}
	j.reset(newIndex(slices.Values([]*record(nil))), 1)
	return j, clock
}

// set puts a record, as the worker does after the token has it.
func (j *journal) set(key, data string) event {
	x, last := j.now()
	e := event{revision: last + 1, before: x.get(key)}
	e.after = &record{key: key, meta: []byte("meta of " + key), revision: e.revision, dataRevision: e.revision}
	j.append([]event{e}, map[version][]byte{e.after.version(): j.sealer.seal(e.after.version(), []byte(data))})
	return e
}

func (j *journal) remove(key string) event {
	x, last := j.now()
	e := event{revision: last + 1, before: x.get(key)}
	j.append([]event{e}, nil)
	return e
}

func TestEveryPastRevisionCanBeListed(t *testing.T) {
	t.Parallel()
	j, _ := newTestJournal(t, wide)
	past := map[uint64]map[string]uint64{1: {}} // Revision of each key, at each revision.
	now := map[string]uint64{}
	for range 500 {
		key := fmt.Sprintf("key-%02d", rand.IntN(30))
		if _, exists := now[key]; exists && rand.IntN(3) == 0 {
			past[j.remove(key).revision] = nil
			delete(now, key)
		} else {
			now[key] = j.set(key, "x").revision
		}
		_, last := j.now()
		past[last] = maps.Clone(now)
	}
	for revision, want := range past {
		x, _, err := j.at(revision)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]uint64{}
		for r := range x.scan("", "") {
			got[r.key] = r.revision
		}
		if !maps.Equal(got, want) {
			t.Fatalf("revision %d holds %v, want %v", revision, got, want)
		}
	}
}

func TestScanKeepsToPrefixAndStart(t *testing.T) {
	t.Parallel()
	j, _ := newTestJournal(t, wide)
	for _, key := range []string{"/a/1", "/a/2", "/a/3", "/ab/1", "/b/1"} {
		j.set(key, "")
	}
	x, _ := j.now()
	for _, c := range []struct{ prefix, start, want string }{
		{"", "", "/a/1 /a/2 /a/3 /ab/1 /b/1"},
		{"/a/", "", "/a/1 /a/2 /a/3"},
		{"/a/", "/a/2", "/a/2 /a/3"},
		{"/a/", "/b/", ""},
		{"/b/", "/a/", "/b/1"},
		{"/c/", "", ""},
	} {
		var keys []string
		for r := range x.scan(c.prefix, c.start) {
			keys = append(keys, r.key)
		}
		if got := strings.Join(keys, " "); got != c.want {
			t.Errorf("scan of %q from %q gives %q, want %q", c.prefix, c.start, got, c.want)
		}
	}
}

func TestAddressesFollowTheirRecords(t *testing.T) {
	t.Parallel()
	first := &record{key: "a", address: "x"}
	moved := &record{key: "a", address: "y"}
	second := &record{key: "b", address: "x"}
	x := newIndex(slices.Values([]*record{first}))
	later := x.redo([]event{{before: first, after: moved}, {after: second}})
	if later.atAddress("x") != second || later.atAddress("y") != moved || later.atAddress("") != nil {
		t.Error("an address does not lead to its record")
	}
	if x.atAddress("x") != first || x.atAddress("y") != nil {
		t.Error("an index was changed after it was made")
	}
	if back := later.undo([]event{{before: first, after: moved}, {after: second}}); !back.equal(x) || back.atAddress("x") != first {
		t.Error("undo does not lead back")
	}
}

func TestReaderSeesEachEventOnce(t *testing.T) {
	t.Parallel()
	j, _ := newTestJournal(t, wide)
	var want []uint64
	for i := range 100 {
		e := j.set(fmt.Sprintf("/%d/%d", i%3, i), "")
		if i%3 == 1 {
			want = append(want, e.revision)
		}
	}
	var got []uint64
	position := uint64(1)
	for {
		events, upTo, err := j.after(position, "/1/", 7)
		if err != nil {
			t.Fatal(err)
		}
		if upTo == position {
			break
		}
		for _, e := range events {
			got = append(got, e.revision)
		}
		position = upTo
	}
	if !slices.Equal(got, want) {
		t.Errorf("events are %v, want %v", got, want)
	}
	if _, last := j.now(); position != last {
		t.Errorf("position is %d, want %d: past the events of others", position, last)
	}
}

func TestCompactedRevisionStaysReadable(t *testing.T) {
	t.Parallel()
	j, _ := newTestJournal(t, wide)
	j.set("a", "")
	compacted := j.set("b", "").revision
	j.set("c", "")
	if err := j.compact(compacted); err != nil {
		t.Fatal(err)
	}
	if events, _, err := j.after(compacted, "", 10); err != nil || len(events) != 1 {
		t.Errorf("after the compacted revision: %d events, %v", len(events), err)
	}
	if x, _, err := j.at(compacted); err != nil || x.len() != 2 {
		t.Errorf("at the compacted revision: %d records, %v", x.len(), err)
	}
	_, last := j.now()
	for revision, want := range map[uint64]agentv1.Reason{
		compacted - 1: agentv1.Reason_REASON_EXPIRED,
		last + 1:      agentv1.Reason_REASON_FUTURE_REVISION,
	} {
		_, _, listErr := j.at(revision)
		_, _, watchErr := j.after(revision, "", 10)
		if agentv1.ReasonOf(listErr) != want || agentv1.ReasonOf(watchErr) != want {
			t.Errorf("at revision %d: %v, %v, want %s", revision, listErr, watchErr, want)
		}
	}
	if err := j.compact(last + 1); agentv1.ReasonOf(err) != agentv1.Reason_REASON_FUTURE_REVISION {
		t.Errorf("compacting the future: %v", err)
	}
	if oldest, _ := j.bounds(); oldest != compacted {
		t.Errorf("oldest revision is %d, want %d", oldest, compacted)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limits HistoryLimits
		kept   func(events int, bytes int64) bool
	}{
		"count": {HistoryLimits{Events: 10, Bytes: wide.Bytes, Age: wide.Age}, func(n int, _ int64) bool { return n == 10 }},
		"bytes": {HistoryLimits{Events: wide.Events, Bytes: 50_000, Age: wide.Age}, func(n int, b int64) bool { return n > 0 && b <= 50_000 }},
		"age":   {HistoryLimits{Events: wide.Events, Bytes: wide.Bytes, Age: 5 * time.Second}, func(n int, _ int64) bool { return n == 6 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, clock := newTestJournal(t, c.limits)
			for i := range 200 {
				clock.SetTime(clock.Now().Add(time.Second))
				j.set(fmt.Sprint(i%7), strings.Repeat("x", 1000))
			}
			if !c.kept(len(j.history.events), j.history.bytes) {
				t.Errorf("history keeps %d events of %d bytes", len(j.history.events), j.history.bytes)
			}
			clock.SetTime(clock.Now().Add(2 * time.Hour))
			j.trim()
			if len(j.history.events) != 0 || j.history.bytes != 0 || len(j.history.data) != 0 {
				t.Errorf("after all has aged, %d events, %d bytes and %d values are left",
					len(j.history.events), j.history.bytes, len(j.history.data))
			}
			if _, last := j.now(); j.history.compacted != last {
				t.Errorf("compacted is %d, want the last revision %d", j.history.compacted, last)
			}
		})
	}
}

func TestDataLivesAsLongAsItsEvents(t *testing.T) {
	t.Parallel()
	j, _ := newTestJournal(t, wide)
	first := j.set("a", "one")
	second := j.set("a", "two")
	j.remove("a")
	if err := j.compact(first.revision); err != nil {
		t.Fatal(err)
	}
	// The second event still speaks of it, as what was there before.
	if data, err := j.data(first.after.version()); err != nil || string(data) != "one" {
		t.Errorf("data is %q, %v", data, err)
	}
	if err := j.compact(second.revision); err != nil {
		t.Fatal(err)
	}
	if _, err := j.data(first.after.version()); agentv1.ReasonOf(err) != agentv1.Reason_REASON_EXPIRED {
		t.Errorf("data of a forgotten event: %v", err)
	}
	if data, err := j.data(second.after.version()); err != nil || string(data) != "two" {
		t.Errorf("data is %q, %v", data, err)
	}
}

func TestSealedDataIsBoundToItsVersion(t *testing.T) {
	t.Parallel()
	s, err := newSealer()
	if err != nil {
		t.Fatal(err)
	}
	v := version{"a", 1}
	sealed := s.seal(v, []byte("secret"))
	if data, err := s.open(v, sealed); err != nil || string(data) != "secret" {
		t.Errorf("data is %q, %v", data, err)
	}
	for _, other := range []version{{"b", 1}, {"a", 2}} {
		if _, err := s.open(other, sealed); err == nil {
			t.Errorf("data of %v opens as that of %v", v, other)
		}
	}
}

func TestResetEndsTheHistory(t *testing.T) {
	t.Parallel()
	j, _ := newTestJournal(t, wide)
	e := j.set("a", "")
	changed := j.changes()
	x, _ := j.now()
	j.reset(x, e.revision+1)
	select {
	case <-changed:
	default:
		t.Error("readers were not told of the reset")
	}
	if _, _, err := j.after(e.revision, "", 1); agentv1.ReasonOf(err) != agentv1.Reason_REASON_EXPIRED {
		t.Errorf("reading on after a reset: %v", err)
	}
	if _, _, err := j.after(e.revision+1, "", 1); err != nil {
		t.Errorf("reading from the reset: %v", err)
	}
}
