// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"reflect"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/faulttoken"
)

// The agent of a device is deployed by the serial number of the device, which its
// reader tells. Another token that comes to be there is refused before it is sent a
// PIN, also after a restart of the agent, and changed in nothing.
func TestSwappedInReader(t *testing.T) {
	t.Parallel()
	const usb = "E6614C311B4FC726"
	logins := func(token *faulttoken.Token) int { return token.Counters().Calls[faulttoken.Login] }
	o, files := testOptions(t)
	o.Token = pkcs11.Selector{Serial: usb}
	begin := func(token *faulttoken.Token, serial string) *harness {
		r := &faultModule{token: token, serial: serial, name: "Pol Henarejos Pico HSM [CCID] (" + usb + ") 00 00"}
		h := runOn(t, r, o, files)
		h.module, h.token = r, token
		return h
	}
	h := begin(faulttoken.New(faulttoken.SoftHSM), "")
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	created := h.commit(put("a", 0, "x"))

	own := h.token
	for name, provision := range map[string]bool{"blank": false, "with a store": true} {
		intruder := faulttoken.New(faulttoken.SoftHSM)
		if provision {
			other := run(t, intruder, func(*Options) {})
			other.await(agentv1.Reason_REASON_UNSPECIFIED)
			other.stop()
		}
		before, sent := intruder.Flash(), logins(intruder)
		h.module.pull()
		h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
		h.module.swap(intruder, "OTHER")
		h.module.plug()
		h.looksAgain()
		if _, err := h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a"}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: get says %v", name, err)
		}
		h.expectRefused(agentv1.Reason_REASON_TOKEN_ABSENT)
		if !reflect.DeepEqual(intruder.Flash(), before) || logins(intruder) != sent {
			t.Errorf("%s: the other token was changed, or sent a PIN", name)
		}
		h.module.pull()
		h.module.swap(own, "")
		h.module.plug()
		h.await(agentv1.Reason_REASON_UNSPECIFIED)
	}
	if got := h.get("a"); got.GetRevision() != created.GetRevision() {
		t.Errorf("record is %v", got)
	}

	// A restart changes nothing in that.
	h.stop()
	intruder := faulttoken.New(faulttoken.SoftHSM)
	h = begin(intruder, "OTHER")
	h.looksAgain()
	h.expectRefused(agentv1.Reason_REASON_TOKEN_ABSENT)
	if logins(intruder) != 0 {
		t.Error("after a restart, the other token was sent a PIN")
	}
	h.stop()
	h = begin(own, "")
	h.await(agentv1.Reason_REASON_UNSPECIFIED)

	// Two that say the same.
	h.module.pull()
	h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
	h.module.mu.Lock()
	h.module.twin = &pkcs11.TokenInfo{Serial: usb}
	h.module.mu.Unlock()
	h.module.plug()
	h.looksAgain()
	h.expectRefused(agentv1.Reason_REASON_TOKEN_ABSENT)
}

// looksAgain waits until the agent has looked for its token, and looked again.
func (h *harness) looksAgain() {
	h.Helper()
	before := h.module.looked()
	h.eventually("another look for the token", func() bool { return h.module.looked() > before+1 })
}
