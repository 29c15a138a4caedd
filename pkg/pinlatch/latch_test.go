// SPDX-License-Identifier: Apache-2.0

package pinlatch_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pinlatch"
	"j5t.io/hsm/pkg/pkcs11"
)

const (
	right = "right-pin"
	wrong = "wrong-pin"
	typo  = "another-wrong-pin"
)

// token is a token with three tries.
type token struct {
	info     pkcs11.TokenInfo
	pin      string
	silent   bool // It does not report its tries.
	failed   int  // Wrong PINs since the last login.
	logins   int  // C_Login calls.
	rejected map[string]int
	fails    error // Instead of looking at the PIN.
}

func newToken(reporting bool) *token {
	k := &token{pin: right, rejected: map[string]int{}, silent: !reporting}
	k.info = pkcs11.TokenInfo{Serial: "s1", Manufacturer: "unheard of", Model: "token"}
	if reporting {
		k.info.Manufacturer, k.info.Model = "Pol Henarejos", "PKCS#15 emulated"
	}
	return k
}

func (k *token) read() pkcs11.TokenInfo {
	info := k.info
	if !k.silent {
		info.UserPINCountLow, info.UserPINFinalTry, info.UserPINLocked = k.failed == 1, k.failed == 2, k.failed >= 3
	}
	return info
}

func (k *token) login(pin []byte) error {
	k.logins++
	switch {
	case k.fails != nil:
		return k.fails
	case k.failed >= 3:
		return &pkcs11.Error{Op: "C_Login", Code: pkcs11.CKRPINLocked}
	case string(pin) != k.pin:
		k.failed++
		k.rejected[string(pin)]++
		return &pkcs11.Error{Op: "C_Login", Code: pkcs11.CKRPINIncorrect}
	}
	k.failed = 0
	return nil
}

// try makes one attempt as a process that was just started would.
func (k *token) try(dir, pin string) error {
	return pinlatch.New(dir, atomicfile.OS{}).Attempt([]byte(pin), k.read(), k.login)
}

// reason is that of a refusal; 0 of other errors and of none.
func reason(err error) pinlatch.Reason {
	var refused *pinlatch.RefusedError
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return 0
}

// step is one thing that happens, and what the attempt in it must come to.
type step struct {
	event  func(*token, string) // Before the attempt.
	pin    string
	reason pinlatch.Reason
	class  pkcs11.Class
	sent   bool
}

func permit(_ *token, dir string) {
	if err := os.WriteFile(filepath.Join(dir, "allow-login"), nil, 0o600); err != nil {
		panic(err)
	}
}

func failed(n int) func(*token, string) {
	return func(k *token, _ string) { k.failed = n }
}

func goesAway(k *token, _ string) {
	k.fails = &pkcs11.Error{Op: "C_Login", Code: pkcs11.CKRDeviceRemoved}
}

func comesBack(k *token, _ string) { k.fails = nil }

func TestAttempt(t *testing.T) {
	t.Parallel()
	ok := step{pin: right, sent: true}
	wrongOnce := step{pin: wrong, class: pkcs11.ClassPINRejected, sent: true}
	for _, test := range []struct {
		name      string
		reporting bool
		steps     []step
	}{
		{"right, again and again", true, []step{ok, ok, ok}},
		{"right, again and again, silent token", false, []step{ok, ok, ok}},
		{"wrong once, then never", true, []step{
			wrongOnce,
			{pin: wrong, reason: pinlatch.ReasonRejected},
			{pin: wrong, reason: pinlatch.ReasonRejected},
		}},
		{"wrong once, then never, silent token", false, []step{
			wrongOnce,
			{pin: wrong, reason: pinlatch.ReasonRejected},
			{pin: wrong, reason: pinlatch.ReasonRejected},
		}},
		{"corrected, though the count is still low", true, []step{wrongOnce, ok, ok}},
		{"corrected, silent token", false, []step{wrongOnce, ok, ok}},
		{"rejected is for good", true, []step{
			wrongOnce, ok,
			{pin: wrong, reason: pinlatch.ReasonRejected},
			ok,
		}},
		{"two wrong ones, and back", true, []step{
			wrongOnce,
			{pin: typo, class: pkcs11.ClassPINRejected, sent: true},
			{pin: wrong, reason: pinlatch.ReasonRejected},
			{pin: right, reason: pinlatch.ReasonFinalTry},
			{pin: right, reason: pinlatch.ReasonFinalTry},
			{event: permit, pin: right, sent: true},
			ok,
		}},
		{"low count of somebody else", true, []step{
			{event: failed(1), pin: right, reason: pinlatch.ReasonCountLow},
			{pin: right, reason: pinlatch.ReasonCountLow},
			{event: permit, pin: right, sent: true},
			{event: failed(1), pin: right, reason: pinlatch.ReasonCountLow},
		}},
		{"low count of somebody else, who then logs in", true, []step{
			{event: failed(1), pin: right, reason: pinlatch.ReasonCountLow},
			{event: failed(0), pin: right, sent: true},
		}},
		{"low count of somebody else, and the PIN file changes", true, []step{
			{event: failed(1), pin: typo, reason: pinlatch.ReasonCountLow},
			{pin: right, sent: true},
		}},
		{"low count after an old rejection", true, []step{
			wrongOnce, ok,
			{event: failed(1), pin: right, reason: pinlatch.ReasonCountLow},
		}},
		{"final try of somebody else", true, []step{
			{event: failed(2), pin: right, reason: pinlatch.ReasonFinalTry},
			{pin: typo, reason: pinlatch.ReasonFinalTry},
			{event: permit, pin: right, sent: true},
		}},
		{"locked", true, []step{
			{event: failed(3), pin: right, reason: pinlatch.ReasonLocked},
			{event: permit, pin: right, reason: pinlatch.ReasonLocked},
			{event: failed(0), pin: right, sent: true},
		}},
		{"locked, silent token", false, []step{
			{event: failed(3), pin: typo, class: pkcs11.ClassPINLocked, sent: true},
			{pin: typo, reason: pinlatch.ReasonRejected},
		}},
		{"permission is for one login", true, []step{
			wrongOnce,
			{event: permit, pin: wrong, class: pkcs11.ClassPINRejected, sent: true},
			{pin: wrong, reason: pinlatch.ReasonRejected},
		}},
		{"permission, because the token's PIN was changed to the rejected one", false, []step{
			{event: failed(3), pin: right, class: pkcs11.ClassPINLocked, sent: true},
			{event: failed(0), pin: right, reason: pinlatch.ReasonRejected},
			{event: permit, pin: right, sent: true},
			ok,
		}},
		{"token goes away meanwhile", true, []step{
			{event: goesAway, pin: right, class: pkcs11.ClassReconnect, sent: true},
			{event: comesBack, pin: right, sent: true},
		}},
		{"token goes away meanwhile, and reports a low count", true, []step{
			{event: goesAway, pin: wrong, class: pkcs11.ClassReconnect, sent: true},
			{event: func(k *token, _ string) { k.fails, k.failed = nil, 1 }, pin: wrong, reason: pinlatch.ReasonOutcomeUnknown},
			{pin: right, sent: true},
		}},
		{"silent token goes away meanwhile", false, []step{
			{event: goesAway, pin: right, class: pkcs11.ClassReconnect, sent: true},
			{event: comesBack, pin: right, reason: pinlatch.ReasonOutcomeUnknown},
			{pin: typo, class: pkcs11.ClassPINRejected, sent: true},
			{pin: right, sent: true},
		}},
		{"another token", true, []step{
			wrongOnce,
			{event: func(k *token, _ string) { k.info.Serial, k.failed = "s2", 0 }, pin: wrong, class: pkcs11.ClassPINRejected, sent: true},
			{event: func(k *token, _ string) { k.info.Serial = "s1" }, pin: wrong, reason: pinlatch.ReasonRejected},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir, k := t.TempDir(), newToken(test.reporting)
			for i, s := range test.steps {
				if s.event != nil {
					s.event(k, dir)
				}
				before := k.logins
				err := k.try(dir, s.pin)
				sent := k.logins - before
				if reason(err) != s.reason || pkcs11.ClassOf(err) != s.class || (sent == 1) != s.sent || sent > 1 {
					t.Fatalf("step %d: %d logins, error %v; want %+v", i, sent, err, s)
				}
				if (err == nil) != (s.reason == 0 && s.class == pkcs11.ClassNone) {
					t.Fatalf("step %d: error %v", i, err)
				}
				if err != nil && (strings.Contains(err.Error(), right) || strings.Contains(err.Error(), wrong)) {
					t.Errorf("step %d: the error shows a PIN: %v", i, err)
				}
			}
		})
	}
}

// TestErrorsTellWhatToDo: each refusal that a person can end names the file.
func TestErrorsTellWhatToDo(t *testing.T) {
	t.Parallel()
	for _, r := range []pinlatch.Reason{
		pinlatch.ReasonRejected, pinlatch.ReasonOutcomeUnknown, pinlatch.ReasonCountLow, pinlatch.ReasonFinalTry,
	} {
		text := (&pinlatch.RefusedError{Reason: r, Serial: "s1", PermissionFile: "/state/allow-login"}).Error()
		if !strings.Contains(text, "/state/allow-login") || !strings.Contains(text, "s1") {
			t.Errorf("reason %d: %s", r, text)
		}
	}
	text := (&pinlatch.RefusedError{Reason: pinlatch.ReasonLocked, Serial: "s1", PermissionFile: "/state/allow-login"}).Error()
	if strings.Contains(text, "allow-login") || !strings.Contains(text, "SO PIN") {
		t.Errorf("locked: %s", text)
	}
}

// TestDamagedFile: what cannot be understood allows no login.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"empty":         "",
		"half":          `{"version":1,"salt":"AAAA`,
		"no salt":       `{"version":1,"tokens":{}}`,
		"later version": `{"version":2,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","tokens":{}}`,
		"no tokens":     `{"version":1,"salt":"AAAAAAAAAAAAAAAAAAAAAA=="}`,
		"and more":      `{"version":1,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","tokens":{}}{`,
	} {
		dir, k := t.TempDir(), newToken(true)
		path := filepath.Join(dir, "pin-latch.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := k.try(dir, right)
		if err == nil || !strings.Contains(err.Error(), path) || k.logins != 0 {
			t.Errorf("%s: %d logins, error %v", name, k.logins, err)
		}
	}
}

// TestFileHoldsNoPIN looks for the PIN, and for more of its hash than two bytes.
func TestFileHoldsNoPIN(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir(), newToken(false)
	goesAway(k, dir)
	if err := k.try(dir, right); err == nil {
		t.Fatal("the token is away")
	}
	path := filepath.Join(dir, "pin-latch.json")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if strings.Contains(string(content), right) || len(content) > 120 {
		t.Errorf("latch file: %s", content)
	}
}
