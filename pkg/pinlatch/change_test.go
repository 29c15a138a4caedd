// SPDX-License-Identifier: Apache-2.0

package pinlatch_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pinlatch"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/faultfs"
	"j5t.io/hsm/test/framework/softhsm"
)

const next = "next-pin"

// set is C_SetPIN.
func (k *token) set(from, to []byte) error {
	if k.fails != nil {
		return k.fails
	}
	if err := k.login(from); err != nil {
		return err
	}
	if len(to) > 12 {
		return &pkcs11.Error{Op: "C_SetPIN", Code: pkcs11.CKRPINLenRange}
	}
	k.pin = string(to)
	return nil
}

// serve logs in with the PIN of a file, or with that of another file that the
// token got, or gives the token that one, as an agent does.
func (k *token) serve(latch *pinlatch.Latch, pin, next string, set func(from, to []byte) error) error {
	var wanted []byte
	if next != "" {
		wanted = []byte(next)
	}
	sent, err := latch.Login([]byte(pin), wanted, func() (pkcs11.TokenInfo, error) { return k.read(), nil }, k.login)
	if err != nil || wanted == nil || string(sent) == next {
		return err
	}
	return latch.Change(sent, wanted, k.read(), set)
}

func (k *token) restart(dir, pin, next string) error {
	return k.serve(pinlatch.New(dir, atomicfile.OS{}), pin, next, k.set)
}

func TestChange(t *testing.T) {
	t.Parallel()
	for _, reporting := range []bool{true, false} {
		dir, k := t.TempDir(), newToken(reporting)
		for _, files := range []struct{ pin, next string }{
			{right, ""},
			{right, next}, // The change.
			{right, next}, // And restarts, until a person moves the PIN.
			{right, next},
			{next, next},
			{next, ""},
			{next, right}, // And back.
			{next, right},
			{right, ""},
		} {
			if err := k.restart(dir, files.pin, files.next); err != nil {
				t.Errorf("reporting=%t, with %v: %v", reporting, files, err)
			}
			if want := max(files.next, files.pin); files.next != "" && k.pin != files.next || files.next == "" && k.pin != files.pin {
				t.Errorf("with %v the token has %s, not %s", files, k.pin, want)
			}
		}
		if len(k.rejected) > 0 {
			t.Errorf("the token rejected %v", k.rejected)
		}
		// The old PIN is known for wrong.
		if err := k.restart(dir, next, ""); reason(err) != pinlatch.ReasonRejected || k.failed > 0 {
			t.Errorf("the old PIN: %v", err)
		}
	}
}

func TestChangeThatTheTokenRefuses(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir(), newToken(true)
	const unfit = "a-pin-that-is-too-long"
	for range 2 {
		if err := k.restart(dir, right, unfit); pkcs11.ClassOf(err) != pkcs11.ClassPINUnfit || strings.Contains(err.Error(), unfit) {
			t.Errorf("unfit PIN: %v", err)
		}
	}
	latch := pinlatch.New(dir, atomicfile.OS{})
	if err := latch.Change([]byte(right), []byte(right), k.read(), k.set); err == nil || k.logins != 4 {
		t.Errorf("a change to the same PIN: %v, %d logins", err, k.logins)
	}
	// Somebody else has changed the PIN while a session was logged in.
	k.pin = typo
	for range 2 {
		if err := latch.Change([]byte(right), []byte(next), k.read(), k.set); err == nil {
			t.Error("the change was made")
		}
	}
	if k.rejected[right] != 1 || k.pin != typo {
		t.Errorf("rejected are %v", k.rejected)
	}
	if err := k.restart(dir, typo, next); err != nil || k.pin != next {
		t.Errorf("the PIN file was corrected: %v; the token has %s", err, k.pin)
	}
}

// TestChangeByAnotherMeanwhile: a session stays logged in when another program
// changes the PIN. The change then sends a wrong old PIN, and a crash just after
// must not have it sent again.
func TestChangeByAnotherMeanwhile(t *testing.T) {
	t.Parallel()
	for _, reporting := range []bool{true, false} {
		dir, k := t.TempDir(), newToken(reporting)
		k.pin = typo
		fs := faultfs.New(0, faultfs.Before)
		_ = pinlatch.New(dir, fs).Change([]byte(right), []byte(next), k.read(), func(from, to []byte) error {
			defer fs.Stop()
			return k.set(from, to)
		})
		for range 3 {
			if err := k.restart(dir, right, next); err == nil {
				t.Error("logged in with a PIN that is wrong")
			}
		}
		if k.rejected[right] != 1 || k.rejected[next] > 1 {
			t.Errorf("reporting=%t: the token rejected %v", reporting, k.rejected)
		}
	}
}

// TestNewPINIsNoCandidate: without a change under way, the file with the new
// PIN is nothing to log in with.
func TestNewPINIsNoCandidate(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir(), newToken(true)
	for range 3 {
		if err := k.restart(dir, wrong, right); err == nil {
			t.Error("logged in with the new PIN")
		}
	}
	if k.logins != 1 {
		t.Errorf("%d logins", k.logins)
	}
}

// TestChangeCrash stops a change at each file-system call and at the token,
// before and after, then restarts the agent again and again with the same
// files. No wrong PIN reaches the token twice, and one of the two files always
// holds the right one. A token that reports its tries gets its new PIN without
// a person; one that does not may need a person's permission, and then gets it.
func TestChangeCrash(t *testing.T) {
	t.Parallel()
	points := 0
	for _, reporting := range []bool{true, false} {
		whole := faultfs.New(0, faultfs.Before)
		changeCrash(t, whole, "no stop", reporting)
		for at := 1; at <= whole.Calls(); at++ {
			for _, moment := range moments {
				changeCrash(t, faultfs.New(at, moment), fmt.Sprintf("reporting=%t, call %d, moment %d", reporting, at, moment), reporting)
				points++
			}
		}
		for _, when := range []string{beforeLogin, afterLogin} {
			changeCrash(t, faultfs.New(0, faultfs.Before), when, reporting)
			points++
		}
	}
	fmt.Printf("figure: pin-change-crash-points %d\n", points)
}

func changeCrash(t *testing.T, fs *faultfs.FS, when string, reporting bool) {
	t.Helper()
	dir, k := t.TempDir(), newToken(reporting)
	_ = k.serve(pinlatch.New(dir, fs), right, next, func(from, to []byte) error {
		if when == beforeLogin {
			fs.Stop()
			return faultfs.ErrStopped
		}
		err := k.set(from, to)
		if when == afterLogin {
			fs.Stop()
			return faultfs.ErrStopped
		}
		return err
	})
	fs.Stop()
	check := func() {
		t.Helper()
		if k.pin != right && k.pin != next || k.rejected[right] > 1 || k.rejected[next] > 0 {
			t.Errorf("%s: the token has %s and rejected %v", when, k.pin, k.rejected)
		}
	}
	// Each restart may be cut off as well.
	for at := 1; at < 5; at++ {
		cut := faultfs.New(at, faultfs.After)
		_ = k.serve(pinlatch.New(dir, cut), right, next, k.set)
		cut.Stop()
		check()
	}
	var err error
	for range 3 {
		err = k.restart(dir, right, next)
		check()
		if reason(err) == pinlatch.ReasonOutcomeUnknown && !reporting {
			permit(k, dir)
		}
	}
	if err != nil || k.pin != next {
		t.Errorf("%s: at last the token has %s: %v", when, k.pin, err)
	}
}

// TestChangeOnSoftHSM changes the PIN of a real token.
func TestChangeOnSoftHSM(t *testing.T) {
	t.Parallel()
	token, dir := softhsm.New(t), t.TempDir()
	module, err := pkcs11.Open(token.Library)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := module.Close(); err != nil {
			t.Error(err)
		}
	}()
	latch := pinlatch.New(dir, atomicfile.OS{})
	const fresh = "fresh-5f1c"
	start := func(pin, next string) (sent string, session *pkcs11.Session, info pkcs11.TokenInfo) {
		t.Helper()
		if err := module.Reinitialize(); err != nil {
			t.Fatal(err)
		}
		info, err := module.Find(pkcs11.Selector{Serial: token.Serial})
		if err != nil {
			t.Fatal(err)
		}
		session, err = module.OpenSession(info.SlotID)
		if err != nil {
			t.Fatal(err)
		}
		used, err := latch.Login([]byte(pin), []byte(next), func() (pkcs11.TokenInfo, error) { return module.TokenInfo(info.SlotID) }, session.Login)
		if err != nil {
			t.Fatal(err)
		}
		return string(used), session, info
	}
	_, session, info := start(token.PIN, fresh)
	if err := latch.Change([]byte(token.PIN), []byte("1"), info, session.SetPIN); pkcs11.ClassOf(err) != pkcs11.ClassPINUnfit {
		t.Errorf("a PIN of one digit: %v", err)
	}
	if err := latch.Change([]byte(token.PIN), []byte(fresh), info, session.SetPIN); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Random(1); err != nil {
		t.Errorf("the session is of no use any more: %v", err)
	}
	if sent, _, _ := start(token.PIN, fresh); sent != fresh {
		t.Error("the old PIN was sent")
	}
	if logins := module.Calls().Logins; logins != 2 {
		t.Errorf("%d logins", logins)
	}
	content, err := os.ReadFile(filepath.Join(dir, "pin-latch.json"))
	if err != nil || strings.Contains(string(content), fresh) || errors.Is(err, os.ErrNotExist) {
		t.Errorf("latch file: %s, %v", content, err)
	}
}
