// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/faulttoken"
)

// What a code that a call at the token gives comes to.
type outcome struct {
	code   codes.Code     // Of the request.
	reason agentv1.Reason // Of the request.
	logins uint64         // Until the token is served again.
}

var (
	reconnected = outcome{codes.OK, 0, 1}
	loggedIn    = outcome{codes.OK, 0, 1}
)

func TestEveryErrorOfAReadIsCured(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code uint
		want outcome
	}{
		"general error":          {pkcs11.CKRGeneralError, reconnected},
		"device error":           {pkcs11.CKRDeviceError, reconnected},
		"device removed":         {pkcs11.CKRDeviceRemoved, reconnected},
		"token not present":      {pkcs11.CKRTokenNotPresent, reconnected},
		"token not recognized":   {pkcs11.CKRTokenNotRecognized, reconnected},
		"session handle invalid": {pkcs11.CKRSessionHandleInvalid, reconnected},
		"session closed":         {pkcs11.CKRSessionClosed, reconnected},
		"object handle invalid":  {pkcs11.CKRObjectHandleInvalid, reconnected},
		"slot invalid":           {pkcs11.CKRSlotIDInvalid, reconnected},
		"module not initialised": {pkcs11.CKRCryptokiNotInitialized, reconnected},
		"not logged in":          {pkcs11.CKRUserNotLoggedIn, loggedIn},
		"half logged in":         {pkcs11.CKRUserAlreadyLoggedIn, loggedIn},
		"another logged in":      {pkcs11.CKRUserAnotherAlreadyLoggedIn, loggedIn},
		"no cure is known":       {pkcs11.CKRFunctionFailed, outcome{codes.DataLoss, agentv1.Reason_REASON_CORRUPT, 1}}, // Scrubbed.
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t)
			created := h.commit(put("a", 0, "x"))
			before := h.Calls()
			h.token.Fail(faulttoken.Read, faulttoken.Fault{Code: c.code})
			began := time.Now()
			_, err := h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a"})
			if status.Code(err) != c.want.code || agentv1.ReasonOf(err) != c.want.reason {
				t.Errorf("get says %v, want %v", err, c.want)
			}
			if took := time.Since(began); took > patience {
				t.Errorf("the answer came after %v", took)
			}
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			if got := h.get("a"); got.GetRevision() != created.GetRevision() || string(got.GetData()) != "x" {
				t.Errorf("record is %v", got)
			}
			if logins := h.Calls().Logins - before.Logins; logins != c.want.logins {
				t.Errorf("%d logins, want %d", logins, c.want.logins)
			}
			h.commit(put("a", created.GetRevision(), "y"))
		})
	}
}

// Whatever a create answers, with the object there or not, the caller is told
// the truth, and the token is served again.
func TestEveryErrorOfACreateIsCured(t *testing.T) {
	t.Parallel()
	full := outcome{codes.ResourceExhausted, agentv1.Reason_REASON_FULL, 0}
	tooLarge := outcome{codes.OutOfRange, agentv1.Reason_REASON_TOO_LARGE, 0}
	for code, refused := range map[uint]*outcome{
		pkcs11.CKRDeviceRemoved: nil, pkcs11.CKRTokenNotPresent: nil,
		pkcs11.CKRSessionHandleInvalid: nil, pkcs11.CKRUserNotLoggedIn: nil, pkcs11.CKRArgumentsBad: nil,
		// The token answers the next call, so it was not lost.
		pkcs11.CKRGeneralError: &full, pkcs11.CKRDeviceError: &full, pkcs11.CKRFunctionFailed: &full,
		pkcs11.CKRDeviceMemory: &full, pkcs11.CKRDataLenRange: &tooLarge,
	} {
		for _, done := range []bool{true, false} {
			t.Run(fmt.Sprintf("%#x,done=%t", code, done), func(t *testing.T) {
				t.Parallel()
				h := start(t)
				created := h.commit(put("a", 0, "x"))
				h.token.Fail(faulttoken.Create, faulttoken.Fault{Code: code, Done: done})
				if !done && refused == &full { // What is refused is tried once more when all is tidy.
					h.token.Fail(faulttoken.Create, faulttoken.Fault{Code: code})
				}
				out, err := h.store.Commit(h.ctx, put("a", created.GetRevision(), "y"))
				h.await(agentv1.Reason_REASON_UNSPECIFIED)
				got := h.get("a")
				switch {
				case done:
					if err != nil || !out.GetCommitted() || string(got.GetData()) != "y" || got.GetRevision() != out.GetRevision() {
						t.Errorf("the change was made; commit says %v, %v, and the record is %v", out, err, got)
					}
				case refused != nil:
					if status.Code(err) != refused.code || agentv1.ReasonOf(err) != refused.reason {
						t.Errorf("commit says %v, %v", out, err)
					}
				default: // It was not made, and then it was.
					if err != nil || !out.GetCommitted() || string(got.GetData()) != "y" || got.GetRevision() != out.GetRevision() {
						t.Errorf("commit says %v, %v, and the record is %v", out, err, got)
					}
				}
				if !done && refused != nil && got.GetRevision() != created.GetRevision() {
					t.Errorf("record is %v", got)
				}
				h.commit(put("a", got.GetRevision(), "z"))
			})
		}
	}
}

func TestEveryErrorOfALogin(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code   uint
		want   agentv1.Reason
		logins uint64
	}{
		"incorrect": {pkcs11.CKRPINIncorrect, agentv1.Reason_REASON_PIN_REJECTED, 1},
		"invalid":   {pkcs11.CKRPINInvalid, agentv1.Reason_REASON_PIN_REJECTED, 1},
		"length":    {pkcs11.CKRPINLenRange, agentv1.Reason_REASON_PIN_REJECTED, 1},
		"expired":   {pkcs11.CKRPINExpired, agentv1.Reason_REASON_PIN_REJECTED, 1},
		"locked":    {pkcs11.CKRPINLocked, agentv1.Reason_REASON_PIN_LOCKED, 1},
		"removed":   {pkcs11.CKRDeviceRemoved, agentv1.Reason_REASON_UNSPECIFIED, 2},
		"session":   {pkcs11.CKRSessionHandleInvalid, agentv1.Reason_REASON_UNSPECIFIED, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := faulttoken.New(faulttoken.Pico66)
			f.Fail(faulttoken.Login, faulttoken.Fault{Code: c.code})
			h := run(t, f, func(*Options) {})
			h.await(c.want)
			if logins := h.Calls().Logins; logins != c.logins {
				t.Errorf("%d logins, want %d", logins, c.logins)
			}
		})
	}
}

// All who wait when the token is pulled are told so at once.
func TestWaitingRequestsAreToldThatTheTokenIsGone(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.commit(put("a", 0, "x"))
	release := h.gates.hold(faulttoken.Read)
	defer release()
	const waiting = 12
	type answer struct {
		err error
		at  time.Time
	}
	answers := make(chan answer, waiting+1)
	var group sync.WaitGroup
	ask := func(do func(context.Context) error) {
		group.Go(func() {
			err := do(h.ctx)
			answers <- answer{err, time.Now()}
		})
	}
	get := func(ctx context.Context) error {
		_, err := h.store.Get(ctx, &agentv1.GetRequest{Key: "a"})
		return err
	}
	ask(get)
	h.awaitHeld()
	for i := range waiting {
		ask([]func(context.Context) error{get, func(ctx context.Context) error {
			_, err := h.store.Commit(ctx, put(fmt.Sprint(i), 0, "x"))
			return err
		}, func(ctx context.Context) error {
			_, err := h.device.Random(ctx, &agentv1.RandomRequest{Length: 1})
			return err
		}}[i%3])
	}
	h.awaitWaiting(waiting)
	h.module.pull()
	pulled := time.Now()
	release()
	group.Wait()
	close(answers)
	var slowest time.Duration
	for a := range answers {
		if agentv1.ReasonOf(a.err) != agentv1.Reason_REASON_TOKEN_ABSENT || status.Code(a.err) != codes.Unavailable {
			t.Errorf("a request was told %v", a.err)
		}
		slowest = max(slowest, a.at.Sub(pulled))
	}
	fmt.Printf("figure: token-loss-answer-ms %d\n", slowest.Milliseconds())
	if slowest > patience {
		t.Errorf("the last one was told after %v", slowest)
	}
	h.module.plug()
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	h.get("a")
}

// Another token in the same reader is not served, and not touched: it has
// another serial, or, where the reader is chosen by its slot, another store.
func TestAnotherTokenInTheSameReader(t *testing.T) {
	t.Parallel()
	slot := uint(0)
	other := func(t *testing.T) *faulttoken.Token {
		f := faulttoken.New(faulttoken.SoftHSM)
		fill(t, f)
		return f
	}
	blank := func(*testing.T) *faulttoken.Token { return faulttoken.New(faulttoken.SoftHSM) }
	for name, c := range map[string]struct {
		selector pkcs11.Selector
		serial   string
		other    func(*testing.T) *faulttoken.Token
		want     agentv1.Reason
	}{
		"other serial, chosen by serial": {pkcs11.Selector{Serial: "FAULT0001"}, "OTHER", other, agentv1.Reason_REASON_TOKEN_ABSENT},
		"other serial, chosen by slot":   {pkcs11.Selector{SlotID: &slot}, "OTHER", other, agentv1.Reason_REASON_TOKEN_FOREIGN},
		"same serial, other store":       {pkcs11.Selector{Serial: "FAULT0001"}, "", other, agentv1.Reason_REASON_TOKEN_FOREIGN},
		"same serial, erased":            {pkcs11.Selector{Serial: "FAULT0001"}, "", blank, agentv1.Reason_REASON_TOKEN_BLANK},
		"other serial, blank":            {pkcs11.Selector{SlotID: &slot}, "OTHER", blank, agentv1.Reason_REASON_TOKEN_BLANK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := run(t, faulttoken.New(faulttoken.SoftHSM), func(o *Options) { o.Token = c.selector })
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			created := h.commit(put("a", 0, "x"))
			intruder := c.other(t)
			before := intruder.Flash()
			h.token.Remove()
			own := h.module.swap(intruder, c.serial)
			if _, err := h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a"}); status.Code(err) != codes.Unavailable {
				t.Errorf("get says %v", err)
			}
			h.expectRefused(c.want)
			if !reflect.DeepEqual(intruder.Flash(), before) {
				t.Error("the other token was changed")
			}
			h.module.pull()
			h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
			h.module.swap(own, "")
			h.module.plug()
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			if got := h.get("a"); got.GetRevision() != created.GetRevision() {
				t.Errorf("record is %v", got)
			}
		})
	}
}
