// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"os"
	"path/filepath"
	"reflect"
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

// patience is how soon an answer has to come; far above what is designed, for
// machines that are busy.
const patience = time.Minute

// refused makes every request that needs the store, and returns their reasons.
func (h *harness) refused() map[string]error {
	h.Helper()
	refused := map[string]error{}
	_, refused["get"] = h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a"})
	_, refused["get without data"] = h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a", WithoutData: true})
	_, _, refused["list"] = h.list(&agentv1.ListRequest{})
	_, _, refused["list without data"] = h.list(&agentv1.ListRequest{WithoutData: true})
	_, refused["put"] = h.store.Commit(h.ctx, put("a", 0, "x"))
	_, refused["status"] = h.store.Commit(h.ctx, setStatus("a", 0, "x"))
	_, refused["random"] = h.device.Random(h.ctx, &agentv1.RandomRequest{Length: 1})
	stream, err := h.store.Watch(h.ctx, &agentv1.WatchRequest{})
	if err != nil {
		h.Fatal(err)
	}
	_, refused["watch"] = stream.Recv()
	return refused
}

func (h *harness) expectRefused(want agentv1.Reason) {
	h.Helper()
	h.await(want)
	for request, err := range h.refused() {
		if agentv1.ReasonOf(err) != want || status.Code(err) != codes.Unavailable {
			h.Errorf("%s: %v, want %s", request, err, want)
		}
	}
	if got := h.status(); got.GetMessage() == "" {
		h.Errorf("status has no message: %v", got)
	}
}

func TestTokenPulledAndPutBack(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "x"))
	stream := h.watch(&agentv1.WatchRequest{})
	h.module.pull()
	began := time.Now()
	if _, err := h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a"}); agentv1.ReasonOf(err) != agentv1.Reason_REASON_TOKEN_ABSENT {
		t.Errorf("get from a pulled token: %v", err)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("the reason came after %v", took)
	}
	h.expectRefused(agentv1.Reason_REASON_TOKEN_ABSENT)
	if _, err := h.device.Info(h.ctx, &agentv1.InfoRequest{}); agentv1.ReasonOf(err) != agentv1.Reason_REASON_TOKEN_ABSENT {
		t.Errorf("info of a pulled token: %v", err)
	}

	began = time.Now()
	h.module.plug()
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if took := time.Since(began); took > patience {
		t.Errorf("ready %v after the token came back", took)
	}
	if got := h.get("a"); string(got.GetData()) != "x" || got.GetRevision() != created.GetRevision() {
		t.Errorf("record is %v", got)
	}
	// The watch was silent, and goes on.
	updated := h.commit(put("a", created.GetRevision(), "y"))
	if events := h.events(stream, updated.GetRevision()); len(events) != 1 {
		t.Errorf("events are %v", events)
	}
}

func TestIdleAgentNoticesThatTheTokenIsGone(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.module.pull()
	h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
}

func TestStatusSurvivesAReconnect(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "x"))
	changed := h.commit(setStatus("a", created.GetRevision(), "fine"))
	h.module.pull()
	h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
	h.module.plug()
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if got := h.get("a"); string(got.GetStatus()) != "fine" || got.GetRevision() != changed.GetRevision() {
		t.Errorf("record is %v", got)
	}
	h.watch(&agentv1.WatchRequest{Revision: created.GetRevision()})
}

func TestLostLoginIsMadeAgain(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "x"))
	before := h.Calls()
	h.token.LoseLogin()
	if got := h.get("a"); string(got.GetData()) != "x" {
		t.Errorf("record is %v", got)
	}
	after := h.Calls()
	// In place: the store was not read again, but for the record itself.
	if after.ValueReads != before.ValueReads+2 || after.Logins != before.Logins+1 {
		t.Errorf("calls were %+v, then %+v", before, after)
	}
	h.token.LoseLogin()
	h.commit(put("a", created.GetRevision(), "y"))
	if got := h.get("a"); string(got.GetData()) != "y" {
		t.Errorf("record is %v", got)
	}
	if logins := h.Calls().Logins - after.Logins; logins != 1 {
		t.Errorf("a commit without a login cost %d logins", logins)
	}
}

func TestCommitOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	for name, made := range map[string]bool{"made": true, "not made": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := run(t, faulttoken.New(faulttoken.Pico66), func(*Options) {})
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			stream := h.watch(&agentv1.WatchRequest{})
			h.token.Fail(faulttoken.Create, faulttoken.Fault{Code: pkcs11.CKRDeviceRemoved, Done: made})
			out, err := h.store.Commit(h.ctx, put("a", 0, "x"))
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			if err != nil || !out.GetCommitted() {
				t.Fatalf("commit says %v, %v", out, err)
			}
			if got := h.get("a"); string(got.GetData()) != "x" || got.GetRevision() != out.GetRevision() {
				t.Errorf("record is %v, want revision %d", got, out.GetRevision())
			}
			if events := h.events(stream, out.GetRevision()); len(events) != 1 {
				t.Errorf("events are %v", events)
			}
			if creates := h.Calls().Creates; made && creates != 2 || !made && creates != 3 { // With the keyring's.
				t.Errorf("%d creates", creates)
			}
		})
	}
}

func TestOutcomeStaysUnknownWhileTheTokenIsAway(t *testing.T) {
	t.Parallel()
	h := run(t, faulttoken.New(faulttoken.Pico66), func(*Options) {})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	stream := h.watch(&agentv1.WatchRequest{})
	release := h.gates.hold(faulttoken.Create)
	defer release()
	var group sync.WaitGroup
	group.Go(func() {
		h.awaitHeld()
		h.token.Fail(faulttoken.Create, faulttoken.Fault{Code: pkcs11.CKRDeviceRemoved, Done: true})
		h.module.mu.Lock()
		h.module.hidden = true
		h.module.mu.Unlock()
		release()
	})
	began := time.Now()
	_, err := h.store.Commit(h.ctx, put("a", 0, "x"))
	group.Wait()
	if agentv1.ReasonOf(err) != agentv1.Reason_REASON_OUTCOME_UNKNOWN {
		t.Fatalf("error is %v", err)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("the reason came after %v", took)
	}
	h.module.plug()
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if got := h.get("a"); string(got.GetData()) != "x" {
		t.Fatalf("record is %v", got)
	}
	// What was made after all is an event as any other.
	if events := h.events(stream, h.get("a").GetRevision()); len(events) != 1 || string(events[0].GetRecord().GetData()) != "x" {
		t.Errorf("events are %v", events)
	}
}

func TestChangesOfOthersExpireTheHistory(t *testing.T) {
	t.Parallel()
	h := start(t)
	created := h.commit(put("a", 0, "x"))
	kept := h.commit(put("b", 0, "x"))
	changed := h.commit(setStatus("b", kept.GetRevision(), "fine"))
	stream := h.watch(&agentv1.WatchRequest{})
	h.module.pull()
	h.await(agentv1.Reason_REASON_TOKEN_ABSENT)

	h.token.Insert()
	other, err := h.token.Open()
	if err != nil {
		t.Fatal(err)
	}
	store, err := token.Open(other, token.Options{StoreID: h.status().GetStoreId()})
	if err != nil {
		t.Fatal(err)
	}
	err = store.Commit([]token.Change{{Record: token.Record{Key: "a", Revision: store.Head() + 1}, Delete: true}})
	if err != nil {
		t.Fatal(err)
	}
	h.module.plug()
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if _, err := stream.Recv(); agentv1.ReasonOf(err) != agentv1.Reason_REASON_EXPIRED {
		t.Errorf("watch ended with %v", err)
	}
	if h.get("a") != nil {
		t.Error("a record that was deleted elsewhere is still there")
	}
	if got := h.get("b"); string(got.GetStatus()) != "fine" || got.GetRevision() != changed.GetRevision() {
		t.Errorf("a record that nobody has touched is %v", got)
	}
	if got := h.status(); got.GetRevision() <= changed.GetRevision() || got.GetRevision() <= created.GetRevision() {
		t.Errorf("revision %d does not tell of the change", got.GetRevision())
	}
}

func TestTokensThatAreNotServed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*testing.T, *faulttoken.Token, *Options)
		want    agentv1.Reason
	}{
		"blank": {
			prepare: func(_ *testing.T, _ *faulttoken.Token, o *Options) { o.Provision = false },
			want:    agentv1.Reason_REASON_TOKEN_BLANK,
		},
		"blank, and was not before": {
			prepare: func(_ *testing.T, _ *faulttoken.Token, o *Options) { o.StoreID = "00112233445566778899aabbccddeeff" },
			want:    agentv1.Reason_REASON_TOKEN_BLANK,
		},
		"foreign": {
			prepare: func(t *testing.T, f *faulttoken.Token, _ *Options) { fill(t, f) },
			want:    agentv1.Reason_REASON_TOKEN_FOREIGN,
		},
		"corrupt": {
			prepare: func(t *testing.T, f *faulttoken.Token, o *Options) {
				o.StoreID = fill(t, f)
				for _, object := range f.Flash() {
					f.Change(object.Label, func(o *faulttoken.Object) bool {
						o.Value[len(o.Value)-1] ^= 1
						return true
					})
				}
			},
			want: agentv1.Reason_REASON_CORRUPT,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := faulttoken.New(faulttoken.SoftHSM)
			h := run(t, f, func(o *Options) { c.prepare(t, f, o) })
			before := f.Flash()
			h.expectRefused(c.want)
			if _, err := h.device.Info(h.ctx, &agentv1.InfoRequest{}); err != nil {
				t.Errorf("info: %v", err)
			}
			if !reflect.DeepEqual(f.Flash(), before) {
				t.Error("the token was changed")
			}
		})
	}
}

// fill makes a store with a record on a token, and returns its id.
func fill(t *testing.T, f *faulttoken.Token) (storeID string) {
	t.Helper()
	s, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	store, err := token.Open(s, token.Options{Provision: true})
	if err != nil {
		t.Fatal(err)
	}
	record := token.Record{Key: "a", Data: []byte("x"), Revision: 5, DataRevision: 5}
	if err := store.Commit([]token.Change{{Record: record}}); err != nil {
		t.Fatal(err)
	}
	return store.ID()
}

func TestStoreIDGivenByHand(t *testing.T) {
	t.Parallel()
	f := faulttoken.New(faulttoken.SoftHSM)
	var o Options
	h := run(t, f, func(edited *Options) {
		edited.StoreID = fill(t, f)
		o = *edited
	})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if got := h.get("a"); got.GetRevision() != 5 || h.status().GetRevision() != 5 {
		t.Errorf("record is %v", got)
	}
	h.stop()
	o.StoreID = "00112233445566778899aabbccddeeff"
	if _, err := newAgent(o, h.module); err == nil || !strings.Contains(err.Error(), o.StoreID) {
		t.Errorf("another store in the same state directory: %v", err)
	}
}

// A token that was carried to another node, where its agent has no state yet.
func TestStoreIDHint(t *testing.T) {
	t.Parallel()
	const other = "00112233445566778899aabbccddeeff"
	for name, c := range map[string]struct {
		hint string // Empty: that of the store on the token.
		fill bool
		want agentv1.Reason
	}{
		"the store":     {"", true, agentv1.Reason_REASON_UNSPECIFIED},
		"another store": {other, true, agentv1.Reason_REASON_TOKEN_FOREIGN},
		"a blank token": {other, false, agentv1.Reason_REASON_UNSPECIFIED},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := faulttoken.New(faulttoken.SoftHSM)
			stored := ""
			if c.fill {
				stored = fill(t, f)
			}
			h := run(t, f, func(o *Options) { o.StoreIDHint = cmp.Or(c.hint, stored) })
			h.await(c.want)
			switch got := h.status().GetStoreId(); {
			case c.want != agentv1.Reason_REASON_UNSPECIFIED:
			case c.fill && got != stored, !c.fill && (got == "" || got == other):
				t.Errorf("store %s is served", got)
			}
		})
	}
}

func TestHangingTokenEndsTheProcess(t *testing.T) {
	t.Parallel()
	hanging := make(chan string, 100)
	h := run(t, faulttoken.New(faulttoken.SoftHSM), func(o *Options) {
		o.CallTimeout = 300 * time.Millisecond
		o.onHang = func(work string) { hanging <- work }
	})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	h.commit(put("a", 0, "x"))
	release := h.gates.hold(faulttoken.Read)
	defer release()
	var group sync.WaitGroup
	group.Go(func() { h.get("a") })
	for {
		select {
		case work := <-hanging:
			if work != "reading" {
				continue // A slow machine.
			}
		case <-h.ctx.Done():
			t.Error("the watchdog sleeps")
		}
		break
	}
	release()
	group.Wait()
}

// A person may correct the PIN, or allow the same one once more; nothing else
// has it sent.
func TestRejectedPINWaitsForAPerson(t *testing.T) {
	t.Parallel()
	f := faulttoken.New(faulttoken.Pico66)
	o, files := testOptions(t)
	writePIN(t, o, "111111")
	h := runWith(t, f, o, files)
	h.expectRefused(agentv1.Reason_REASON_PIN_REJECTED)
	looks := h.module.looked()
	h.eventually("the supervisor has looked again and again", func() bool { return h.module.looked() > looks+2 })
	if logins := h.Calls().Logins; logins != 1 {
		t.Fatalf("a wrong PIN was sent %d times", logins)
	}
	// The next wrong one is the second, and the third would lock the token.
	writePIN(t, o, "222222")
	h.eventually("the second PIN was sent", func() bool { return h.Calls().Logins == 2 })
	h.expectRefused(agentv1.Reason_REASON_PIN_REJECTED)
	// Now not even the right one is sent.
	writePIN(t, o, faulttoken.PIN)
	h.expectRefused(agentv1.Reason_REASON_PIN_LOCKED)
	if logins := h.Calls().Logins; logins != 2 {
		t.Fatalf("the token with its last try got %d logins", logins)
	}
	leave := filepath.Join(o.StateDir, "allow-login")
	if !strings.Contains(h.status().GetMessage(), leave) {
		t.Errorf("message %q does not name %s", h.status().GetMessage(), leave)
	}
	if err := os.WriteFile(leave, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
}

func TestWrongSOPINIsSentOnce(t *testing.T) {
	t.Parallel()
	o, _ := testOptions(t)
	o.SOPINFile = o.PINFile
	m := &faultModule{}
	for range 3 {
		p, err := newPINs(o, m, newState(starting)) // A restart.
		if err != nil {
			t.Fatal(err)
		}
		err = p.initialise(pkcs11.TokenInfo{Serial: "BLANK", Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Initialized: true})
		if c := conditionOf(err); c.reason != agentv1.Reason_REASON_TOKEN_UNINITIALIZED {
			t.Errorf("condition is %v", c)
		}
	}
	if m.inits != 1 {
		t.Errorf("a wrong SO PIN was sent %d times", m.inits)
	}
}
