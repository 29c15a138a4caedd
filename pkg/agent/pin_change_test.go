// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/faulttoken"
)

const newPIN = "next-5f1c"

// optionsWithNewPIN are those of an agent whose new PIN file is not there yet.
func optionsWithNewPIN(t *testing.T) (Options, mtls.Files) {
	t.Helper()
	o, files := testOptions(t)
	o.NewPINFile = filepath.Join(t.TempDir(), "new-pin")
	return o, files
}

func writeNewPIN(t *testing.T, o Options, pin string) {
	t.Helper()
	if err := os.WriteFile(o.NewPINFile, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *harness) awaitPIN(want agentv1.PINState) {
	h.Helper()
	h.eventually("the PIN is "+want.String(), func() bool { return h.status().GetPinState() == want })
	if got := h.status(); (got.GetPinMessage() == "") != (want == agentv1.PINState_PIN_STATE_ACCEPTED) ||
		strings.Contains(got.GetPinMessage(), newPIN) || strings.Contains(got.GetPinMessage(), faulttoken.PIN) {
		h.Errorf("PIN state %s has message %q", want, got.GetPinMessage())
	}
}

// A person writes the new PIN beside the old one, waits, and moves it. All the
// while the store is served, and a restart at any time finds the right PIN.
func TestPINIsChangedWhileTheStoreIsServed(t *testing.T) {
	t.Parallel()
	o, files := optionsWithNewPIN(t)
	f := faulttoken.New(faulttoken.Pico66)
	h := runWith(t, f, o, files)
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	h.awaitPIN(agentv1.PINState_PIN_STATE_ACCEPTED)
	created := h.commit(put("a", 0, "x"))

	writeNewPIN(t, o, newPIN)
	h.awaitPIN(agentv1.PINState_PIN_STATE_CHANGED)
	if h.module.pin != newPIN {
		t.Fatalf("the token has PIN %q", h.module.pin)
	}
	if got := h.get("a"); got.GetRevision() != created.GetRevision() {
		t.Errorf("record is %v", got)
	}
	f.LoseLogin()
	if got := h.get("a"); got.GetRevision() != created.GetRevision() {
		t.Errorf("record is %v", got)
	}
	h.stop()

	h = again(t, h, o, files)
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	h.awaitPIN(agentv1.PINState_PIN_STATE_CHANGED)
	writePIN(t, o, newPIN)
	h.awaitPIN(agentv1.PINState_PIN_STATE_ACCEPTED)
	if err := os.Remove(o.NewPINFile); err != nil {
		t.Fatal(err)
	}
	h.stop()
	h = again(t, h, o, files)
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	h.awaitPIN(agentv1.PINState_PIN_STATE_ACCEPTED)
	if info := f.Info(); info.UserPINCountLow {
		t.Error("a wrong PIN was sent")
	}
}

// again restarts an agent on its token.
func again(t *testing.T, h *harness, o Options, files mtls.Files) *harness {
	t.Helper()
	m := &faultModule{token: h.token, pin: h.module.pin}
	n := runOn(t, m, o, files)
	n.module, n.token = m, h.token
	return n
}

// The token goes away while its PIN is changed: it has either of them when it
// is back, and the agent finds out with one wrong try at most.
func TestTokenLostDuringPINChange(t *testing.T) {
	t.Parallel()
	for name, done := range map[string]bool{"made": true, "not made": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, files := optionsWithNewPIN(t)
			h := runWith(t, faulttoken.New(faulttoken.Pico66), o, files)
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			h.commit(put("a", 0, "x"))
			h.module.mu.Lock()
			h.module.setPIN = func() (bool, error) {
				return done, &pkcs11.Error{Op: "C_SetPIN", Code: pkcs11.CKRDeviceRemoved}
			}
			h.module.mu.Unlock()
			before := h.Calls().Logins
			writeNewPIN(t, o, newPIN)
			h.awaitPIN(agentv1.PINState_PIN_STATE_CHANGED)
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			h.get("a")
			want := uint64(1) // The old PIN is right, and the change made then.
			if done {
				want = 2 // The old PIN is rejected; so the new one is right.
			}
			if logins := h.Calls().Logins - before; logins != want {
				t.Errorf("%d logins, want %d", logins, want)
			}
		})
	}
}

func TestNewPINThatTheTokenDoesNotTake(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pin  string
		fail error
	}{
		"too long":      {newPIN + "-and-too-long", nil},
		"not supported": {newPIN, &pkcs11.Error{Op: "C_SetPIN", Code: 0x54}}, // CKR_FUNCTION_NOT_SUPPORTED
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, files := optionsWithNewPIN(t)
			h := runWith(t, faulttoken.New(faulttoken.Pico66), o, files)
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			if c.fail != nil {
				h.module.mu.Lock()
				h.module.setPIN = func() (bool, error) { return false, c.fail }
				h.module.mu.Unlock()
			}
			writeNewPIN(t, o, c.pin)
			h.awaitPIN(agentv1.PINState_PIN_STATE_CHANGE_REFUSED)
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			h.commit(put("a", 0, "x"))
			looks := h.module.looked()
			h.eventually("the agent has probed again", func() bool { return h.module.looked() > looks+1 })
			h.awaitPIN(agentv1.PINState_PIN_STATE_CHANGE_REFUSED)
			// Another one is taken, and so is none.
			writeNewPIN(t, o, "another-5f1c")
			h.awaitPIN(agentv1.PINState_PIN_STATE_CHANGED)
			if h.token.Info().UserPINCountLow {
				t.Error("a wrong PIN was sent")
			}
		})
	}
}
