// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/test/framework/faulttoken"
)

func TestWatchTellsEveryChange(t *testing.T) {
	t.Parallel()
	h := start(t)
	first := h.status().GetRevision()
	stream := h.watch(&agentv1.WatchRequest{Prefix: "/x/"})
	created := h.commit(put("/x/a", 0, "one"))
	h.commit(put("/y/a", 0, "other"))
	updated := h.commit(put("/x/a", created.GetRevision(), "two"))
	statusSet := h.commit(setStatus("/x/a", updated.GetRevision(), "fine"))
	deleted := h.commit(remove("/x/a", statusSet.GetRevision()))
	outside := h.commit(put("/y/b", 0, "other"))

	// As it happens, and again from the history.
	for name, got := range map[string][]*agentv1.Event{
		"live":         h.events(stream, outside.GetRevision()),
		"from history": h.events(h.watch(&agentv1.WatchRequest{Prefix: "/x/", Revision: first}), outside.GetRevision()),
	} {
		want := []struct {
			kind                        agentv1.Event_Type
			revision                    uint64
			data, before, status, prior string
		}{
			{agentv1.Event_TYPE_PUT, created.GetRevision(), "one", "", "", ""},
			{agentv1.Event_TYPE_PUT, updated.GetRevision(), "two", "one", "", ""},
			{agentv1.Event_TYPE_PUT, statusSet.GetRevision(), "two", "two", "fine", ""},
			{agentv1.Event_TYPE_DELETE, deleted.GetRevision(), "", "two", "", "fine"},
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d events, want %d: %v", name, len(got), len(want), got)
		}
		for i, w := range want {
			e := got[i]
			if e.GetType() != w.kind || e.GetRevision() != w.revision ||
				string(e.GetRecord().GetData()) != w.data || string(e.GetPrevious().GetData()) != w.before ||
				string(e.GetRecord().GetStatus()) != w.status || string(e.GetPrevious().GetStatus()) != w.prior ||
				(e.GetRecord() == nil) != (w.kind == agentv1.Event_TYPE_DELETE) || (e.GetPrevious() == nil) != (i == 0) {
				t.Errorf("%s: event %d is %v, want %v", name, i, e, w)
			}
		}
	}
}

func TestWatchWithoutData(t *testing.T) {
	t.Parallel()
	h := start(t)
	stream := h.watch(&agentv1.WatchRequest{WithoutData: true})
	created := h.commit(put("a", 0, "secret"))
	updated := h.commit(put("a", created.GetRevision(), "secret"))
	for _, e := range h.events(stream, updated.GetRevision()) {
		if e.GetRecord().GetData() != nil || e.GetPrevious().GetData() != nil || string(e.GetRecord().GetMeta()) != "meta" {
			t.Errorf("event is %v", e)
		}
	}
}

// After a restart the history holds no data, and a status has no token call to
// bring it there.
func TestWatchReadsDataOfAStatusChangeFromTheToken(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "secret"))
	x, last := h.versions.Current()
	h.versions.Reset(x, last)
	before := h.Calls().ValueReads
	first, second := h.watch(&agentv1.WatchRequest{}), h.watch(&agentv1.WatchRequest{})
	changed := h.commit(setStatus("a", created.GetRevision(), "fine"))
	for _, stream := range []agentv1.Store_WatchClient{first, second} {
		events := h.events(stream, changed.GetRevision())
		if len(events) != 1 || string(events[0].GetRecord().GetData()) != "secret" || string(events[0].GetPrevious().GetData()) != "secret" {
			t.Errorf("events are %v", events)
		}
	}
	if cost := h.Calls().ValueReads - before; cost < 1 || cost > 2 {
		t.Errorf("two watches cost %d reads", cost)
	}
	// Overwritten, the data is in the history.
	updated := h.commit(put("a", changed.GetRevision(), "new"))
	events := h.events(h.watch(&agentv1.WatchRequest{Revision: created.GetRevision()}), updated.GetRevision())
	if len(events) != 2 || string(events[0].GetRecord().GetData()) != "secret" || string(events[1].GetPrevious().GetData()) != "secret" {
		t.Errorf("events are %v", events)
	}
}

func TestWatchOutsideOfTheHistory(t *testing.T) {
	t.Parallel()
	h := start(t)
	first := h.commit(put("a", 0, "x"))
	second := h.commit(put("b", 0, "x"))
	if err := h.Compact(second.GetRevision()); err != nil {
		t.Fatal(err)
	}
	h.watch(&agentv1.WatchRequest{Revision: second.GetRevision()})
	for revision, want := range map[uint64]agentv1.Reason{
		first.GetRevision():      agentv1.Reason_REASON_EXPIRED,
		second.GetRevision() + 1: agentv1.Reason_REASON_FUTURE_REVISION,
	} {
		stream, err := h.store.Watch(h.ctx, &agentv1.WatchRequest{Revision: revision})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); agentv1.ReasonOf(err) != want {
			t.Errorf("watch from %d: %v, want %s", revision, err, want)
		}
	}
	if got := h.status(); got.GetCompactRevision() != second.GetRevision() || got.GetRevision() != second.GetRevision() {
		t.Errorf("status is %v", got)
	}
}

func TestSlowWatcherExpiresAndBlocksNobody(t *testing.T) {
	t.Parallel()
	h := run(t, faulttoken.New(faulttoken.SoftHSM), func(o *Options) { o.History.Events = 10 })
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	slow := h.watch(&agentv1.WatchRequest{})
	fast := h.watch(&agentv1.WatchRequest{})
	data := strings.Repeat("x", 128<<10)
	revision := uint64(0)
	// More than gRPC buffers, and than the history keeps.
	for range 40 {
		revision = h.commit(put("a", revision, data)).GetRevision()
		h.events(fast, revision)
	}
	for {
		if _, err := slow.Recv(); err != nil {
			if agentv1.ReasonOf(err) != agentv1.Reason_REASON_EXPIRED {
				t.Errorf("slow watch ended with %v", err)
			}
			break
		}
	}
}

func TestWatchesEndWithTheAgent(t *testing.T) {
	t.Parallel()
	h := start(t)
	stream := h.watch(&agentv1.WatchRequest{})
	ended := make(chan error)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	h.stop()
	select {
	case err := <-ended:
		if status.Code(err) != codes.Unavailable {
			t.Errorf("watch ended with %v", err)
		}
	case <-time.After(deadline):
		t.Error("watch did not end")
	}
}

func TestManyWatchesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	h := start(t)
	revision := uint64(0)
	for i := range 300 {
		ctx, cancel := context.WithCancel(h.ctx)
		stream, err := h.store.Watch(ctx, &agentv1.WatchRequest{Prefix: fmt.Sprint(i % 2)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			revision = h.commit(put("1", revision, "x")).GetRevision()
		}
		cancel()
	}
}

// toldStream is a stream that notes how far it was told.
type toldStream struct {
	grpc.ServerStream
	ctx  context.Context
	told atomic.Uint64
}

func (s *toldStream) Context() context.Context { return s.ctx }

func (s *toldStream) Send(out *agentv1.WatchResponse) error {
	s.told.Store(out.GetRevision())
	return nil
}

// TestWatchMissesNoChange: just when a watcher has been told all, and looks for more, the
// next change comes. It is told without waiting for one more.
func TestWatchMissesNoChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		versions, err := mvcc.New(clock.RealClock{}, mvcc.Limits{Events: 8, Bytes: 1 << 20, Age: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		stream := &toldStream{ctx: ctx}
		w := &watcher{
			storeService: &storeService{state: newState(condition{}), versions: versions},
			in:           &agentv1.WatchRequest{WithoutData: true}, stream: stream,
		}
		ended := make(chan error)
		go func() { ended <- w.run() }()
		change := func(revision uint64) {
			versions.Append([]mvcc.Event{{Revision: revision, After: &mvcc.Record{Key: "a", Revision: revision}}}, nil)
		}
		for revision := uint64(1); revision < 20_000 && !t.Failed(); revision += 2 {
			change(revision)
			for i := 1; stream.told.Load() < revision; i++ {
				if i%10_000 == 0 { // Not often: it would miss the moment.
					runtime.Gosched()
				}
			}
			for range revision % 200 { // Nanoseconds, to come at another moment each time.
				_ = stream.told.Load()
			}
			change(revision + 1)
			synctest.Wait()
			if told := stream.told.Load(); told != revision+1 {
				t.Errorf("the watcher waits at revision %d, and the last one is %d", told, revision+1)
			}
		}
		end()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
