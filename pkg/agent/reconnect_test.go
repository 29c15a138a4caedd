// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/faulttoken"
)

// The tests of this file take the session or its login away while it is served. It
// costs one login, and nobody who can be served all the same is told of it.

// mishaps end a session or its login, and leave the token in its place.
var mishaps = map[string]faulttoken.Event{
	"replugged":         func(t *faulttoken.Token) { t.Remove(); t.Insert() },
	"power lost":        (*faulttoken.Token).PowerCut,
	"pcscd restarted":   (*faulttoken.Token).RestartPCSCD,
	"login lost":        (*faulttoken.Token).LoseLogin,
	"reset in the dark": func(t *faulttoken.Token) { t.RestartPCSCD(); t.LoseLogin() },
}

// firstCalls are the calls of the token that requests begin with.
var firstCalls = map[string]string{
	"get": faulttoken.Read, "list": faulttoken.Read, "random": faulttoken.Random, "create": faulttoken.Create, "update": faulttoken.Create,
}

func startOn(t *testing.T, p faulttoken.Profile) *harness {
	t.Helper()
	h := run(t, faulttoken.New(p), func(*Options) {})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	return h
}

func TestLostSessionIsNoticedByNobody(t *testing.T) {
	t.Parallel()
	for _, p := range []faulttoken.Profile{faulttoken.Pico66With1M, faulttoken.PicoNext} {
		for name, event := range mishaps {
			for request, function := range firstCalls {
				t.Run(p.Name+"/"+name+"/"+request, func(t *testing.T) {
					t.Parallel()
					h := startOn(t, p)
					revision := h.commit(put("a", 0, "x")).GetRevision()
					before := h.Calls()
					h.token.AtCall(function, 1, event)
					switch request {
					case "get":
						if got := h.get("a"); string(got.GetData()) != "x" {
							t.Errorf("record is %v", got)
						}
					case "list":
						records, end, err := h.list(&agentv1.ListRequest{})
						if err != nil || len(records) != 1 || string(records[0].GetData()) != "x" || end == nil {
							t.Errorf("list says %v, %v", records, err)
						}
					case "random":
						out, err := h.device.Random(h.ctx, &agentv1.RandomRequest{Length: 7})
						if err != nil || len(out.GetData()) != 7 {
							t.Errorf("random says %v, %v", out, err)
						}
					case "create":
						h.commit(put("b", 0, "y"))
					case "update":
						h.commit(put("a", revision, "y"))
					}
					// A commit may leave something to tidy, and the token is asked whether it is there.
					if logins := h.Calls().Logins - before.Logins; logins > 1 {
						t.Errorf("it cost %d logins", logins)
					}
					if got := h.status().GetReason(); got != agentv1.Reason_REASON_UNSPECIFIED {
						t.Errorf("reason is %v", got)
					}
				})
			}
		}
	}
}

// Many wait, of all kinds, when the session is lost: all are served, by one login.
func TestWaitingRequestsOutliveASession(t *testing.T) {
	t.Parallel()
	for name, event := range mishaps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startOn(t, faulttoken.PicoNext)
			h.commit(put("a", 0, "x"))
			before := h.Calls()
			release := h.gates.hold(faulttoken.Create)
			defer release()
			const waiting = 12
			errs := make(chan error, waiting+1)
			var group sync.WaitGroup
			ask := func(do func(context.Context) error) { group.Go(func() { errs <- do(h.ctx) }) }
			write := func(key string) func(context.Context) error {
				return func(ctx context.Context) error {
					out, err := h.store.Commit(ctx, put(key, 0, "x"))
					if err == nil && !out.GetCommitted() {
						err = fmt.Errorf("%s is there already", key)
					}
					return err
				}
			}
			ask(write("first"))
			<-h.gates.held
			for i := range waiting {
				ask([]func(context.Context) error{
					func(ctx context.Context) error {
						_, err := h.store.Get(ctx, &agentv1.GetRequest{Key: "a"})
						return err
					},
					write(fmt.Sprint(i)),
					func(ctx context.Context) error {
						_, err := h.device.Random(ctx, &agentv1.RandomRequest{Length: 1})
						return err
					},
				}[i%3])
			}
			h.awaitWaiting(waiting)
			event(h.token)
			release()
			group.Wait()
			close(errs)
			for err := range errs {
				if err != nil {
					t.Errorf("a request was told %v", err)
				}
			}
			if logins := h.Calls().Logins - before.Logins; logins != 1 {
				t.Errorf("it cost %d logins", logins)
			}
		})
	}
}

// A token on which one object ends every session: the request is told so, at last, and
// the token is served to all others.
func TestRequestThatEndsEverySession(t *testing.T) {
	t.Parallel()
	h := startOn(t, faulttoken.PicoNext)
	revision := h.commit(put("a", 0, "x")).GetRevision()
	before := h.Calls()
	for range maxRepeats + 1 {
		h.token.Fail(faulttoken.Create, faulttoken.Fault{Code: pkcs11.CKRDeviceRemoved})
	}
	_, err := h.store.Commit(h.ctx, put("a", revision, "y"))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("commit says %v", err)
	}
	if got := h.get("a"); string(got.GetData()) != "x" {
		t.Errorf("record is %v", got)
	}
	if logins := h.Calls().Logins - before.Logins; logins != maxRepeats+1 {
		t.Errorf("it cost %d logins", logins)
	}
}

// However often a token was pulled, it is opened at once when it returns.
func TestTokenThatIsPulledAgainAndAgain(t *testing.T) {
	t.Parallel()
	h := startOn(t, faulttoken.PicoNext)
	h.commit(put("a", 0, "x"))
	before := h.Calls()
	const pulls = 14 // By then a pause that doubles each time was a minute.
	var slowest time.Duration
	for range pulls {
		h.module.pull()
		h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
		returned := time.Now()
		h.module.plug()
		h.await(agentv1.Reason_REASON_UNSPECIFIED)
		slowest = max(slowest, time.Since(returned))
	}
	if limit := await.Limit(time.Second); slowest > limit {
		t.Errorf("served only %v after a return, want %v", slowest, limit)
	}
	if logins := h.Calls().Logins - before.Logins; logins != pulls {
		t.Errorf("%d returns cost %d logins", pulls, logins)
	}
}

// Logins that fail become rare, and a token that was pulled and put back is tried at once
// all the same.
func TestFailedLoginsBecomeRare(t *testing.T) {
	t.Parallel()
	f := faulttoken.New(faulttoken.SoftHSM)
	for range 1000 {
		f.Fail(faulttoken.Login, faulttoken.Fault{Code: pkcs11.CKRDeviceRemoved})
	}
	h := run(t, f, func(*Options) {})
	const tries = 7 // The pause is more than a second then.
	h.eventually("it was tried to log in", func() bool { return h.Calls().Logins >= tries })
	f.Mend()
	returned := time.Now()
	h.module.pull()
	h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
	h.module.plug()
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if took, limit := time.Since(returned), await.Limit(1500*time.Millisecond); took > limit {
		t.Errorf("served %v after it was pulled and put back, want %v", took, limit)
	}
}

// Another token with the same serial number takes the place of the own one, and leaves
// it to it again between two looks.
func TestSwapAndBack(t *testing.T) {
	t.Parallel()
	intruder := faulttoken.New(faulttoken.PicoNext)
	fill(t, intruder)
	h := startOn(t, faulttoken.PicoNext)
	h.commit(put("a", 0, "x"))
	swap := func(in *faulttoken.Token) *faulttoken.Token {
		h.module.mu.Lock()
		defer h.module.mu.Unlock()
		out := h.module.token
		out.Remove()
		in.Insert()
		h.module.token = in
		return out
	}
	own := swap(intruder)
	h.await(agentv1.Reason_REASON_TOKEN_FOREIGN)
	returned := time.Now()
	swap(own)
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if took, limit := time.Since(returned), await.Limit(time.Second); took > limit {
		t.Errorf("served %v after it was back, want %v", took, limit)
	}
	if got := h.get("a"); string(got.GetData()) != "x" {
		t.Errorf("record is %v", got)
	}
}

// The token is pulled at every call of updates and of the housekeeping after them, and
// put back: at once, or when everybody has been told that it is gone.
func TestUnplugAtEveryCall(t *testing.T) {
	const rounds, longAway = 100, 10 // Of each profile; every tenth time it stays away.
	profiles := []faulttoken.Profile{faulttoken.Pico66With1M, faulttoken.PicoNext}
	slowest := make([]time.Duration, len(profiles))
	t.Run("profiles", func(t *testing.T) {
		for i, p := range profiles {
			t.Run(p.Name, func(t *testing.T) {
				t.Parallel()
				h := startOn(t, p)
				u := &unplugger{harness: h}
				for round := range rounds {
					u.round(round, round%longAway == longAway-1)
				}
				slowest[i] = u.slowest
			})
		}
	})
	most := max(slowest[0], slowest[1])
	fmt.Printf("figure: return-to-served-ms-max %d\n", most.Milliseconds())
	if limit := await.Limit(time.Second); most > limit {
		t.Errorf("served %v after a return, want %v", most, limit)
	}
}

// callsOfUpdate is what an update and the housekeeping after it ask of a token at most.
const callsOfUpdate = 5

// unplugger pulls the token while it is updated.
type unplugger struct {
	*harness
	call     int // That it is pulled at next.
	revision uint64
	returned time.Time
	slowest  time.Duration
}

// round makes an update, and lets housekeeping destroy what it left; the token is pulled
// before one of the calls of that.
func (u *unplugger) round(n int, stayAway bool) {
	u.Helper()
	u.call = u.call%callsOfUpdate + 1
	gone := make(chan struct{})
	u.token.AtCall("", u.call, func(t *faulttoken.Token) {
		t.Remove()
		close(gone)
	})
	type answer struct {
		out  *agentv1.CommitResponse
		err  error
		when time.Time
	}
	answers := make(chan answer, 1)
	want := fmt.Sprint(n)
	asked := time.Now()
	go func() {
		out, err := u.store.Commit(u.ctx, put("a", u.revision, want))
		answers <- answer{out, err, time.Now()}
	}()
	var got *answer
	for pulled := false; !pulled; {
		select {
		case <-gone:
			pulled = true
		case a := <-answers:
			got = &a
		case <-time.After(time.Millisecond):
			if got != nil { // Housekeeping has made all its calls, or makes them between these.
				_, _ = u.store.Get(u.ctx, &agentv1.GetRequest{Key: "a"})
			}
		}
	}
	if stayAway {
		u.await(agentv1.Reason_REASON_TOKEN_ABSENT)
	}
	u.comeBack()
	if got == nil {
		a := <-answers
		got = &a
	}
	record := u.get("a")
	// On a busy machine an attempt may take longer than callers are let wait. They wait from
	// the loss on, which the update may be the first to notice: the session of the round
	// before has died when its token came back, and values are read from memory.
	if waited := got.when.Sub(asked); got.err != nil && waited < reconnectWait {
		u.Errorf("call %d: after %v the update was told %v", u.call, waited, got.err)
	}
	if got.err == nil && (!got.out.GetCommitted() || string(record.GetData()) != want || record.GetRevision() != got.out.GetRevision()) {
		u.Errorf("call %d: the update says %v, and the record is %v", u.call, got.out, record)
	}
	u.revision = record.GetRevision()
}

// comeBack puts the token back, and waits until a value was read from it.
func (u *unplugger) comeBack() {
	u.Helper()
	u.returned = time.Now()
	u.token.Insert()
	u.eventually("the token is served again", func() bool {
		_, err := u.store.Get(u.ctx, &agentv1.GetRequest{Key: "a"})
		return err == nil && u.status().GetReason() == agentv1.Reason_REASON_UNSPECIFIED
	})
	u.slowest = max(u.slowest, time.Since(u.returned))
}
