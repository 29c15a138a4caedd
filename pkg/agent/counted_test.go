// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
	"j5t.io/hsm/test/framework/softhsm"
)

// The tests of this file count what the agent asks of a real PKCS#11 module.

// realOptions are those of an agent on a SoftHSM token.
func realOptions(t *testing.T, token softhsm.Token) (Options, mtls.Files) {
	t.Helper()
	o, files := testOptions(t)
	o.Module, o.PINFile = token.Library, token.PINFile
	o.Token = pkcs11.Selector{Serial: token.Serial}
	return o, files
}

// startReal starts an agent on a SoftHSM token, and waits until it is ready.
func startReal(t *testing.T, o Options, files mtls.Files) *harness {
	t.Helper()
	module, err := pkcs11.Open(o.Module)
	if err != nil {
		t.Fatal(err)
	}
	h := runOn(t, pkcs11Module{module}, o, files)
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	return h
}

// cost is what the token was asked for meanwhile. The agent must have nothing
// else to do at the end.
func (h *harness) cost(do func()) pkcs11.Calls {
	h.Helper()
	before := h.Calls()
	do()
	return minus(h.Calls(), before)
}

func minus(a, b pkcs11.Calls) pkcs11.Calls {
	return pkcs11.Calls{
		Logins: a.Logins - b.Logins, Finds: a.Finds - b.Finds, LabelReads: a.LabelReads - b.LabelReads,
		ValueReads: a.ValueReads - b.ValueReads, Creates: a.Creates - b.Creates, Destroys: a.Destroys - b.Destroys,
		KeyPairs: a.KeyPairs - b.KeyPairs, Derives: a.Derives - b.Derives, Randoms: a.Randoms - b.Randoms,
	}
}

func TestCostOfRequests(t *testing.T) {
	t.Parallel()
	o, files := realOptions(t, softhsm.New(t))
	h := startReal(t, o, files)
	expect := func(what string, got, want pkcs11.Calls) {
		t.Helper()
		if got != want {
			t.Errorf("%s cost %+v, want %+v", what, got, want)
		}
	}
	one := pkcs11.Calls{Creates: 1}

	var revision uint64
	create := h.cost(func() { revision = h.commit(put("a", 0, "small")).GetRevision() })
	expect("a create", create, one)
	expect("the first update", h.cost(func() { revision = h.commit(put("a", revision, "other")).GetRevision() }), one)

	// From now on an update leaves something to destroy. It is answered while
	// that has not begun.
	release := h.gates.hold(faulttoken.Destroy)
	defer release()
	update := h.cost(func() { revision = h.commit(put("a", revision, "third")).GetRevision() })
	expect("an update", update, one)
	h.awaitHeld()
	release()
	h.eventually("what was superseded is destroyed", func() bool { return h.Calls().Destroys == 1 })

	get := h.cost(func() {
		if got := h.get("a"); string(got.GetData()) != "third" {
			t.Errorf("record is %v", got)
		}
	})
	expect("a get", get, pkcs11.Calls{ValueReads: 1})

	noop := h.cost(func() {
		same := put("a", revision, "")
		same.GetPut().SameData = true
		if got := h.commit(same).GetRevision(); got != revision {
			t.Errorf("an update of nothing has moved the revision from %d to %d", revision, got)
		}
		same.GetPut().Status = []byte("by a put")
		revision = h.commit(same).GetRevision()
		revision = h.commit(setStatus("a", revision, "fine")).GetRevision()
		if out, err := h.store.Commit(h.ctx, put("a", 1, "late")); err != nil || out.GetCommitted() {
			t.Errorf("an update of an old revision: %v, %v", out, err)
		}
	})
	expect("updates of nothing or of the status", noop, pkcs11.Calls{})

	table := h.cost(func() {
		stream := h.watch(&agentv1.WatchRequest{WithoutData: true})
		revision = h.commit(setStatus("a", revision, "better")).GetRevision()
		h.events(stream, revision)
		if _, _, err := h.list(&agentv1.ListRequest{WithoutData: true}); err != nil {
			t.Error(err)
		}
		if _, err := h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a", WithoutData: true}); err != nil {
			t.Error(err)
		}
	})
	expect("get, list and watch without data", table, pkcs11.Calls{})

	fmt.Printf("figure: get-token-reads %d\n", get.ValueReads)
	fmt.Printf("figure: create-token-creates %d\n", create.Creates)
	fmt.Printf("figure: update-token-creates %d\n", update.Creates)
	fmt.Printf("figure: noop-token-writes %d\n", noop.Creates+noop.Destroys)
	fmt.Printf("figure: table-list-token-reads %d\n", table.ValueReads)
}

func TestCostOfParallelWrites(t *testing.T) {
	t.Parallel()
	o, files := realOptions(t, softhsm.New(t))
	h := startReal(t, o, files)
	const writes = 64
	release := h.gates.hold(faulttoken.Create)
	defer release()
	cost := h.cost(func() {
		var group sync.WaitGroup
		group.Go(func() { h.commit(put("first", 0, "x")) })
		h.awaitHeld()
		for i := range writes - 1 {
			group.Go(func() { h.commit(put(fmt.Sprint(i), 0, "x")) })
		}
		h.awaitWaiting(writes - 1)
		release()
		group.Wait()
	})
	fmt.Printf("figure: parallel-writes-per-create %d\n", writes/cost.Creates)
	if cost.Creates != 2 {
		t.Errorf("%d parallel writes cost %d creates, want 2", writes, cost.Creates)
	}
}

// TestCostOfStart fills a token as a Pico HSM would be, and starts another agent.
func TestCostOfStart(t *testing.T) {
	t.Parallel()
	const segments = 96
	o, files := realOptions(t, softhsm.New(t))
	var err error
	if o.Profile, err = token.ProfileNamed("pico"); err != nil {
		t.Fatal(err)
	}
	h := startReal(t, o, files)
	full := strings.Repeat("x", o.Profile.SegmentBytes-200)
	for i := range segments {
		h.commit(put(fmt.Sprint(i), 0, full))
	}
	if out, err := h.store.Commit(h.ctx, put("one more", 0, full)); agentv1.ReasonOf(err) != agentv1.Reason_REASON_FULL {
		t.Fatalf("the token is not full: %v, %v", out, err)
	}
	h.stop()

	h = startReal(t, o, files)
	got := h.Calls()
	want := pkcs11.Calls{
		Logins:     1,
		ValueReads: segments + 1, // And the keyring.
		Derives:    1,
		LabelReads: segments + 1,
		Finds:      got.Finds,
	}
	fmt.Printf("figure: startup-token-reads %d\n", got.ValueReads)
	if got != want {
		t.Errorf("a start with %d segments cost %+v, want %+v", segments, got, want)
	}
	if records := h.status().GetRecords(); records != segments {
		t.Errorf("%d records", records)
	}
}

// TestCostOfIdleness lets an agent idle for ten minutes, and a day, of
// a time that goes on only when every goroutine of it waits (testing/synctest):
// its timers and tickers are the real ones, and so is the token, which each of
// its probes asks.
func TestCostOfIdleness(t *testing.T) {
	t.Parallel()
	o, files := realOptions(t, softhsm.New(t))
	h := startReal(t, o, files)
	revision := h.commit(put("a", 0, "x")).GetRevision()
	for i := range 3 {
		revision = h.commit(put("a", revision, fmt.Sprint(i))).GetRevision()
	}
	h.stop()
	module, err := pkcs11.Open(o.Module)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		looks := &countingModule{module: pkcs11Module{module}}
		a, err := newAgent(o, looks)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error)
		var listener net.Listener = bufconn.Listen(1)
		go func() { ended <- a.Run(ctx, listener) }()
		synctest.Wait()
		if c, _ := a.supervisor.state.now(); !c.ready() {
			t.Fatalf("the agent is not ready: %+v", c)
		}
		time.Sleep(time.Second) // Of the bubble's clock: by then it is tidied.
		before, probes := a.Calls(), looks.looks.Load()
		time.Sleep(10 * time.Minute)
		idle := minus(a.Calls(), before)
		fmt.Printf("figure: idle-token-writes %d\n", idle.Creates+idle.Destroys+idle.KeyPairs)
		if idle.Randoms = 0; idle != (pkcs11.Calls{}) { // By them it looks whether the token is there.
			t.Errorf("ten idle minutes cost %+v", idle)
		}
		if n := looks.looks.Load() - probes; n < 100 {
			t.Errorf("in ten minutes the agent has looked %d times for the token: it did not live", n)
		}
		time.Sleep(24 * time.Hour)
		day := minus(a.Calls(), before)
		if day.Logins != 1 || day.ValueReads == 0 || day.Creates+day.Destroys+day.KeyPairs != 0 {
			t.Errorf("an idle day, with one scrub, cost %+v", day)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// countingModule counts the probes of the supervisor.
type countingModule struct {
	module
	looks atomic.Int32
}

func (r *countingModule) TokenInfo(slotID uint) (pkcs11.TokenInfo, error) {
	r.looks.Add(1)
	return r.module.TokenInfo(slotID)
}
