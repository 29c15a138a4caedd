// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

func TestRecordLifecycle(t *testing.T) {
	t.Parallel()
	h := start(t)
	if h.get("a") != nil {
		t.Error("an absent record was found")
	}
	created := h.commit(put("a", 0, "one"))
	updated := h.commit(put("a", created.GetRevision(), "two"))
	if updated.GetRevision() <= created.GetRevision() || updated.GetDataRevision() != updated.GetRevision() {
		t.Errorf("revisions %d, %d, data %d", created.GetRevision(), updated.GetRevision(), updated.GetDataRevision())
	}
	got := h.get("a")
	if string(got.GetData()) != "two" || string(got.GetMeta()) != "meta" || got.GetAddress() != "at a" || got.GetRevision() != updated.GetRevision() {
		t.Errorf("record is %v", got)
	}
	for _, in := range []*agentv1.CommitRequest{
		put("a", 0, "x"), put("a", created.GetRevision(), "x"), put("b", 7, "x"),
		setStatus("a", created.GetRevision(), "x"), remove("a", created.GetRevision()),
	} {
		out, err := h.store.Commit(h.ctx, in)
		if err != nil || out.GetCommitted() || out.GetRevision() != updated.GetRevision() {
			t.Errorf("%v at a wrong revision: %v, %v", in, out, err)
		}
	}
	deleted := h.commit(remove("a", updated.GetRevision()))
	if deleted.GetRevision() <= updated.GetRevision() || h.get("a") != nil {
		t.Errorf("deleted at %d, record is %v", deleted.GetRevision(), h.get("a"))
	}
}

func TestSameDataKeepsItsRevision(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "secret"))
	relabelled := put("a", created.GetRevision(), "")
	relabelled.GetPut().Meta, relabelled.GetPut().SameData = []byte("other meta"), true
	updated := h.commit(relabelled)
	if updated.GetDataRevision() != created.GetDataRevision() || updated.GetRevision() == created.GetRevision() {
		t.Errorf("revision %d, data revision %d after %d", updated.GetRevision(), updated.GetDataRevision(), created.GetRevision())
	}
	if got := h.get("a"); string(got.GetData()) != "secret" || string(got.GetMeta()) != "other meta" {
		t.Errorf("record is %v", got)
	}
}

func TestInvalidRequestsChangeNothing(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "x"))
	same := put("b", 0, "")
	same.GetPut().SameData = true
	for _, in := range []*agentv1.CommitRequest{
		{}, {Key: "a"}, put("", 0, "x"), same, setStatus("b", 0, "x"), remove("b", 0), put(strings.Repeat("k", 4096), 0, "x"),
	} {
		if _, err := h.store.Commit(h.ctx, in); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%.40v: %v", in, err)
		}
	}
	if _, err := h.store.Get(h.ctx, &agentv1.GetRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("get without key: %v", err)
	}
	if _, _, err := h.list(&agentv1.ListRequest{Limit: -1}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("list with a limit of -1: %v", err)
	}
	for _, length := range []uint32{0, 1025} {
		if _, err := h.device.Random(h.ctx, &agentv1.RandomRequest{Length: length}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%d random bytes: %v", length, err)
		}
	}
	if got := h.status(); got.GetRevision() != created.GetRevision() || got.GetRecords() != 1 {
		t.Errorf("status is %v", got)
	}
}

func TestTooLargeRecord(t *testing.T) {
	t.Parallel()
	h := start(t)
	_, err := h.store.Commit(h.ctx, put("a", 0, strings.Repeat("x", agentv1.MaxRecordBytes+1)))
	if agentv1.ReasonOf(err) != agentv1.Reason_REASON_TOO_LARGE {
		t.Errorf("error is %v", err)
	}
	h.commit(put("a", 0, "x"))
}

func TestAddressBelongsToOneRecord(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("/secret/namespace/owner", 0, "x"))
	thief := put("thief", 0, "x")
	thief.GetPut().Address = "at /secret/namespace/owner"
	_, err := h.store.Commit(h.ctx, thief)
	if agentv1.ReasonOf(err) != agentv1.Reason_REASON_ADDRESS_IN_USE {
		t.Fatalf("error is %v", err)
	}
	if message := strings.ReplaceAll(err.Error(), thief.GetPut().GetAddress(), ""); strings.Contains(message, "owner") {
		t.Errorf("%q names the record that has the address", err)
	}
	h.commit(remove("/secret/namespace/owner", created.GetRevision()))
	h.commit(thief)
}

func TestNoNeedlessTokenCalls(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "x"))
	before := h.Calls()
	step := func(name string, in *agentv1.CommitRequest, changes bool) {
		t.Helper()
		_, at := h.versions.Current()
		out := h.commit(in)
		if changed := out.GetRevision() != at; changed != changes || out.GetDataRevision() != created.GetDataRevision() {
			t.Errorf("%s: revision %d after %d, data revision %d", name, out.GetRevision(), at, out.GetDataRevision())
		}
	}
	at := func() uint64 { _, revision := h.versions.Current(); return revision }
	putStatus := func(text string) *agentv1.CommitRequest {
		in := put("a", at(), "")
		in.GetPut().SameData, in.GetPut().Status = true, []byte(text)
		return in
	}
	step("new status", setStatus("a", at(), "one"), true)
	step("same status", setStatus("a", at(), "one"), false)
	step("put of another status", putStatus("two"), true)
	step("put of nothing new", putStatus("two"), false)
	if _, err := h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a", WithoutData: true}); err != nil {
		t.Error(err)
	}
	if records, _, err := h.list(&agentv1.ListRequest{WithoutData: true}); err != nil || len(records) != 1 || string(records[0].GetStatus()) != "two" {
		t.Errorf("records are %v, %v", records, err)
	}
	if after := h.Calls(); after != before {
		t.Errorf("the token was asked: %+v, before %+v", after, before)
	}
	h.get("a")
	if after := h.Calls(); after.ValueReads != before.ValueReads+1 || after.Creates != before.Creates {
		t.Errorf("a get cost %+v, before %+v", after, before)
	}
}

func TestWaitingWritesShareOneCommit(t *testing.T) {
	t.Parallel()
	h := start(t)
	before := h.Calls().Creates
	var group sync.WaitGroup
	release := h.holdFirst(&group)
	defer release()
	const writes = 20
	for i := range writes {
		group.Go(func() { h.commit(put(fmt.Sprint(i), 0, "x")) })
	}
	// Two of the same key: the second one fails, and is not in the same commit.
	outcomes := make(chan bool, 2)
	for range 2 {
		group.Go(func() {
			out, err := h.store.Commit(h.ctx, put("contested", 0, "x"))
			if err != nil {
				t.Error(err)
			}
			outcomes <- out.GetCommitted()
		})
	}
	// And two of the same address.
	reasons := make(chan agentv1.Reason, 2)
	for i := range 2 {
		group.Go(func() {
			in := put(fmt.Sprint("address", i), 0, "x")
			in.GetPut().Address = "contested"
			_, err := h.store.Commit(h.ctx, in)
			reasons <- agentv1.ReasonOf(err)
		})
	}
	h.awaitWaiting(writes + 4)
	release()
	group.Wait()
	if creates := h.Calls().Creates - before; creates != 2 {
		t.Errorf("%d writes cost %d creates, want 2", writes+5, creates)
	}
	if a, b := <-outcomes, <-outcomes; a == b {
		t.Errorf("two creates of one key were both committed: %t", a)
	}
	got := []agentv1.Reason{<-reasons, <-reasons}
	slices.Sort(got)
	if got[0] != agentv1.Reason_REASON_UNSPECIFIED || got[1] != agentv1.Reason_REASON_ADDRESS_IN_USE {
		t.Errorf("two creates of one address gave %v", got)
	}
	if records := h.status().GetRecords(); records != writes+3 {
		t.Errorf("%d records", records)
	}
}

func TestWritesThatFitAreMadeBesideOneThatDoesNot(t *testing.T) {
	t.Parallel()
	h := start(t)
	var group sync.WaitGroup
	release := h.holdFirst(&group)
	defer release()
	group.Go(func() { h.commit(put("a", 0, "x")) })
	group.Go(func() {
		_, err := h.store.Commit(h.ctx, put("b", 0, strings.Repeat("x", agentv1.MaxRecordBytes+1)))
		if agentv1.ReasonOf(err) != agentv1.Reason_REASON_TOO_LARGE {
			t.Errorf("error is %v", err)
		}
	})
	group.Go(func() { h.commit(put("c", 0, "x")) })
	h.awaitWaiting(3)
	release()
	group.Wait()
}

// TestTokenLostInsideOfABatch: the token refuses a batch as a whole, takes one of its
// changes, and is lost at the next. What is acknowledged is on the token, the rest too.
func TestTokenLostInsideOfABatch(t *testing.T) {
	t.Parallel()
	h := start(t)
	var group sync.WaitGroup
	release := h.holdFirst(&group)
	defer release()
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	keys := []string{"a", "b", "c", "d"}
	for i, key := range keys {
		group.Go(func() {
			out, err := h.store.Commit(h.ctx, put(key, 0, "x"))
			mu.Lock()
			defer mu.Unlock()
			acknowledged[key] = err == nil && out.GetCommitted()
		})
		h.awaitWaiting(i + 1)
	}
	for _, code := range []uint{0, pkcs11.CKRDeviceMemory, 0, pkcs11.CKRDeviceRemoved} { // Of first, all, a, b.
		h.token.Fail(faulttoken.Create, faulttoken.Fault{Code: code})
	}
	release()
	group.Wait()
	for _, key := range []string{"a", "c", "d"} {
		if !acknowledged[key] {
			t.Errorf("the write of %s was not acknowledged", key)
		}
	}
	storeID := h.status().GetStoreId()
	h.stop()
	session, err := h.token.Open()
	if err != nil {
		t.Fatal(err)
	}
	store, err := token.Open(session, token.Options{StoreID: storeID})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for r := range store.Records() {
		there[r.Key] = true
	}
	for _, key := range keys {
		if acknowledged[key] && !there[key] {
			t.Errorf("the write of %s was acknowledged, and the token does not hold it", key)
		}
	}
}

func TestWaitingReadsOfARecordShareOneTokenRead(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "old"))
	before := h.Calls().ValueReads
	release := h.gates.hold(faulttoken.Read)
	defer release()
	var group sync.WaitGroup
	group.Go(func() {
		if got := h.get("a"); string(got.GetData()) != "old" {
			t.Errorf("record is %v", got)
		}
	})
	h.awaitHeld()
	// The write waits behind the read in hand, the other reads behind the write.
	group.Go(func() { h.commit(put("a", created.GetRevision(), "new")) })
	h.awaitWaiting(1)
	const reads = 10
	for range reads {
		group.Go(func() {
			if got := h.get("a"); string(got.GetData()) != "new" {
				t.Errorf("a read that began after a write gives %q", got.GetData())
			}
		})
	}
	h.awaitWaiting(1 + reads)
	release()
	group.Wait()
	if cost := h.Calls().ValueReads - before; cost != 2 {
		t.Errorf("%d reads cost %d reads of the token, want 2", reads+1, cost)
	}
}

func TestRequestThatGivesUpInTheQueueIsNotBegun(t *testing.T) {
	t.Parallel()
	h := start(t)
	var group sync.WaitGroup
	release := h.holdFirst(&group)
	defer release()
	h.awaitWaiting(0)
	ctx, cancel := context.WithTimeout(h.ctx, 4*time.Second)
	defer cancel()
	_, err := h.store.Commit(ctx, put("late", 0, "x"))
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "not begun") {
		t.Errorf("error is %v", err)
	}
	release()
	group.Wait()
	if h.get("late") != nil {
		t.Error("a request whose deadline had passed was carried out")
	}
}

func TestListIsAsOfOneRevision(t *testing.T) {
	t.Parallel()
	h := start(t)
	revisions := map[string]uint64{}
	large := strings.Repeat("x", chunkBytes/2)
	for i := range 6 {
		key := fmt.Sprintf("/x/%d", i)
		revisions[key] = h.commit(put(key, 0, large)).GetRevision()
	}
	h.commit(put("/y/0", 0, "x"))
	_, at := h.versions.Current()

	// Change what the list has not come to yet while its first chunk is read.
	release := h.gates.hold(faulttoken.Read)
	defer release()
	listed := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		select {
		case <-h.gates.held:
		case <-listed:
			t.Error("the list has ended without a read of the token")
			return
		}
		for _, change := range []*agentv1.CommitRequest{
			put("/x/5", revisions["/x/5"], "changed"), remove("/x/4", revisions["/x/4"]), put("/x/6", 0, "new"),
		} {
			group.Go(func() { h.commit(change) })
		}
		h.awaitWaiting(3)
		release()
	})
	records, end, err := h.list(&agentv1.ListRequest{Prefix: "/x/"})
	close(listed)
	group.Wait()
	release()
	if err != nil {
		t.Fatal(err)
	}
	check := func(records []*agentv1.Record, end *agentv1.ListEnd) {
		t.Helper()
		if end.GetRevision() != at || end.GetRemaining() != 0 || len(records) != 6 {
			t.Errorf("%d records as of %d, want 6 as of %d", len(records), end.GetRevision(), at)
		}
		for _, r := range records {
			if string(r.GetData()) != large || r.GetRevision() != revisions[r.GetKey()] {
				t.Errorf("record %s has %d bytes at %d", r.GetKey(), len(r.GetData()), r.GetRevision())
			}
		}
	}
	check(records, end)
	again, end, err := h.list(&agentv1.ListRequest{Prefix: "/x/", Revision: at})
	if err != nil {
		t.Fatal(err)
	}
	check(again, end)

	page, end, err := h.list(&agentv1.ListRequest{Prefix: "/x/", StartKey: "/x/1", Limit: 2, Revision: at, WithoutData: true})
	if err != nil || len(page) != 2 || page[0].GetKey() != "/x/1" || end.GetRemaining() != 3 || page[0].GetData() != nil {
		t.Errorf("page is %v, %v, %v", page, end, err)
	}
	if err := h.Compact(at + 1); err == nil {
		if _, _, err := h.list(&agentv1.ListRequest{Revision: at}); agentv1.ReasonOf(err) != agentv1.Reason_REASON_EXPIRED {
			t.Errorf("a list in the compacted past: %v", err)
		}
	} else {
		t.Error(err)
	}
	if _, _, err := h.list(&agentv1.ListRequest{Revision: 1 << 63}); agentv1.ReasonOf(err) != agentv1.Reason_REASON_FUTURE_REVISION {
		t.Errorf("a list in the future: %v", err)
	}
}

func TestDevice(t *testing.T) {
	t.Parallel()
	h := start(t)
	info, err := h.device.Info(h.ctx, &agentv1.InfoRequest{})
	if err != nil || info.GetSerial() != h.token.Info().Serial {
		t.Errorf("info is %v, %v", info, err)
	}
	random, err := h.device.Random(h.ctx, &agentv1.RandomRequest{Length: 32})
	if err != nil || len(random.GetData()) != 32 || bytes.Equal(random.GetData(), make([]byte, 32)) {
		t.Errorf("random is %v, %v", random, err)
	}
}
