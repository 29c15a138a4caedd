// SPDX-License-Identifier: Apache-2.0

package pinlatch_test

import (
	"fmt"
	"os"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pinlatch"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/softhsm"
)

// TestWrongPINFile is the way of an agent with a wrong PIN file on a real token:
// one C_Login and no more, not after restarts either, until the file is right.
func TestWrongPINFile(t *testing.T) {
	t.Parallel()
	token, dir := softhsm.New(t), t.TempDir()
	module, err := pkcs11.Open(token.Library)
	if err != nil {
		t.Fatal(err)
	}
	start := func() error {
		if err := module.Reinitialize(); err != nil {
			t.Fatal(err)
		}
		info, err := module.Find(pkcs11.Selector{Serial: token.Serial})
		if err != nil {
			t.Fatal(err)
		}
		session, err := module.OpenSession(info.SlotID)
		if err != nil {
			t.Fatal(err)
		}
		pin, err := pinlatch.ReadPIN(token.PINFile)
		if err != nil {
			t.Fatal(err)
		}
		defer clear(pin)
		return pinlatch.New(dir, atomicfile.OS{}).Attempt(pin, info, session.Login)
	}
	write := func(pin string) {
		if err := os.WriteFile(token.PINFile, []byte(pin+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	write("not-" + token.PIN)
	if err := start(); pkcs11.ClassOf(err) != pkcs11.ClassPINRejected {
		t.Fatalf("first start: %v", err)
	}
	for range 5 {
		if err := start(); reason(err) != pinlatch.ReasonRejected {
			t.Fatalf("restart: %v", err)
		}
	}
	logins := module.Calls().Logins
	fmt.Printf("figure: wrong-pin-logins %d\n", logins)
	if logins != 1 {
		t.Errorf("%d logins with the wrong PIN", logins)
	}

	write(token.PIN)
	if err := start(); err != nil {
		t.Fatalf("the PIN file was corrected: %v", err)
	}
	if err := start(); err != nil {
		t.Fatalf("restart after it: %v", err)
	}
}

// TestLowCountOfOthers: on a real token somebody else mistypes the PIN.
func TestLowCountOfOthers(t *testing.T) {
	t.Parallel()
	token, dir := softhsm.New(t), t.TempDir()
	module, err := pkcs11.Open(token.Library)
	if err != nil {
		t.Fatal(err)
	}
	attempt := func() error {
		info, err := module.Find(pkcs11.Selector{Serial: token.Serial})
		if err != nil {
			t.Fatal(err)
		}
		session, err := module.OpenSession(info.SlotID)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = session.Close() }()
		return pinlatch.New(dir, atomicfile.OS{}).Attempt([]byte(token.PIN), info, session.Login)
	}
	if err := attempt(); err != nil {
		t.Fatal(err)
	}
	info, err := module.Find(pkcs11.Selector{Serial: token.Serial})
	if err != nil {
		t.Fatal(err)
	}
	other, err := module.OpenSession(info.SlotID)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Login([]byte("mistyped")); pkcs11.ClassOf(err) != pkcs11.ClassPINRejected {
		t.Fatal(err)
	}
	if err := attempt(); reason(err) != pinlatch.ReasonCountLow {
		t.Fatalf("with a low count: %v", err)
	}
	if err := other.Login([]byte(token.PIN)); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := attempt(); err != nil {
		t.Errorf("after the other's login: %v", err)
	}
}
