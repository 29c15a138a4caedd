// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/test/framework/faulttoken"
)

// What a token said OK to and lost is written to it again, before anybody can
// see that it is not there.
func TestAcknowledgedWriteThatTheTokenLost(t *testing.T) {
	t.Parallel()
	h := run(t, faulttoken.New(faulttoken.Pico66), func(*Options) {})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	created := h.commit(put("a", 0, "x"))
	stream := h.watch(&agentv1.WatchRequest{})
	h.token.Forget(faulttoken.Forgets{Creates: 1})
	h.token.PowerCut()
	h.token.Forget(faulttoken.Forgets{})
	if got := h.get("a"); got.GetRevision() != created.GetRevision() || string(got.GetData()) != "x" {
		t.Errorf("record is %v", got)
	}
	scrub := h.status().GetScrub()
	if len(scrub.GetRestoredObjects()) != 1 || scrub.GetShadow() != "Current" || scrub.GetIntervalSeconds() != 24*60*60 {
		t.Errorf("scrub is %v", scrub)
	}
	updated := h.commit(put("a", created.GetRevision(), "y"))
	if events := h.events(stream, updated.GetRevision()); len(events) != 1 {
		t.Errorf("events are %v", events)
	}
}

// An object that was damaged is told as such, once, and then mended.
func TestDamagedObjectIsMended(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "x"))
	for _, object := range h.token.Flash() {
		if strings.HasPrefix(object.Label, "segment-") {
			h.token.Change(object.Label, func(o *faulttoken.Object) bool {
				o.Value[len(o.Value)-1] ^= 1
				return true
			})
		}
	}
	if _, err := h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a"}); agentv1.ReasonOf(err) != agentv1.Reason_REASON_CORRUPT {
		t.Errorf("get of a damaged record says %v", err)
	}
	if got := h.get("a"); got.GetRevision() != created.GetRevision() || string(got.GetData()) != "x" {
		t.Errorf("record is %v", got)
	}
	if restored := h.status().GetScrub().GetRestoredObjects(); len(restored) != 1 {
		t.Errorf("restored are %v", restored)
	}
}

// A token that others have written to meanwhile is believed, not the shadow.
func TestStaleShadowResurrectsNothing(t *testing.T) {
	t.Parallel()
	f := faulttoken.New(faulttoken.Pico66)
	here, files := testOptions(t)
	there, thereFiles := testOptions(t)
	h := runWith(t, f, here, files)
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	deleted := h.commit(put("deleted there", 0, "x"))
	h.commit(put("kept", 0, "x"))
	last := h.status()
	h.stop()

	there.StoreID = last.GetStoreId()
	h = runWith(t, f, there, thereFiles)
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	last.Revision = h.commit(remove("deleted there", deleted.GetRevision())).GetRevision()
	h.stop()

	h = runWith(t, f, here, files)
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if got := h.get("deleted there"); got != nil {
		t.Errorf("a record that was deleted elsewhere is back: %v", got)
	}
	if got := h.get("kept"); string(got.GetData()) != "x" {
		t.Errorf("record is %v", got)
	}
	if got := h.status(); got.GetScrub().GetShadow() != "Stale" || got.GetRevision() < last.GetRevision() {
		t.Errorf("status is %v", got)
	}
}

// Revisions never go back, nor are given twice: not those of status either,
// which the token does not hold, and not by a clock that steps back.
func TestRevisionsOverRestartsAndClocks(t *testing.T) {
	t.Parallel()
	o, files := testOptions(t)
	f := faulttoken.New(faulttoken.Pico66)
	now := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	var last uint64
	given := func(revision uint64) {
		t.Helper()
		if revision <= last {
			t.Errorf("revision %d was given after %d", revision, last)
		}
		last = revision
	}
	for i, step := range []time.Duration{0, time.Second, -time.Hour, -50 * 365 * 24 * time.Hour, 0, time.Minute, 100 * 365 * 24 * time.Hour} {
		now = now.Add(step)
		o.Clock = clocktesting.NewFakePassiveClock(now)
		h := runWith(t, f, o, files)
		h.await(agentv1.Reason_REASON_UNSPECIFIED)
		if got := h.status().GetRevision(); got < last {
			t.Errorf("start %d begins at revision %d after %d", i, got, last)
		}
		key := fmt.Sprint(i)
		given(h.commit(put(key, 0, "x")).GetRevision())
		given(h.commit(setStatus(key, last, "one")).GetRevision())
		given(h.commit(put(key, last, "y")).GetRevision())
		for j := range 3 {
			given(h.commit(setStatus(key, last, fmt.Sprint(j))).GetRevision())
		}
		h.stop()
	}
}

// A state directory that cannot be written is told, loses nothing, and is taken
// up again when it was mended.
func TestStateDirectoryThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	o, files := testOptions(t)
	h := runWith(t, faulttoken.New(faulttoken.Pico66), o, files)
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	created := h.commit(put("a", 0, "x"))
	shadow := filepath.Join(o.StateDir, shadowFile)
	aside := filepath.Join(t.TempDir(), shadowFile)
	if err := os.Rename(shadow, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(shadow, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := h.store.Commit(h.ctx, put("a", created.GetRevision(), "y")); err == nil {
		t.Errorf("commit says %v", out)
	}
	h.await(agentv1.Reason_REASON_STATE_DIR)
	if err := os.Remove(shadow); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, shadow); err != nil {
		t.Fatal(err)
	}
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if got := h.get("a"); got.GetRevision() != created.GetRevision() || string(got.GetData()) != "x" {
		t.Errorf("record is %v", got)
	}
}

// More small records fit on a token than it holds objects: what is cold is
// packed, in idle time or when a change is refused.
func TestSmallRecordsArePacked(t *testing.T) {
	t.Parallel()
	h := run(t, faulttoken.New(faulttoken.Pico66), func(*Options) {})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	const records = 150
	value := strings.Repeat("x", 600)
	var group sync.WaitGroup
	for w := range 3 {
		group.Go(func() {
			for i := w; i < records; i += 3 {
				h.commit(put(fmt.Sprint(i), 0, value))
			}
		})
	}
	group.Wait()
	for i := range records {
		if got := h.get(fmt.Sprint(i)); string(got.GetData()) != value {
			t.Fatalf("record %d is %v", i, got)
		}
	}
	if got := h.status(); got.GetRecords() != records || got.GetCapacity().GetObjects() > got.GetCapacity().GetObjectLimit() {
		t.Errorf("status is %v", got)
	}
}
