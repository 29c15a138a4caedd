// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/softhsm"
)

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := filepath.Join(dir, "text.so")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	inUse := softhsm.New(t)
	open(t, inUse.Library)
	for _, test := range []struct{ name, path, want string }{
		{"relative", "libsofthsm2.so", "must be absolute"},
		{"missing", filepath.Join(dir, "absent.so"), "is missing"},
		{"no library", text, "is not a PKCS#11 module"},
		{"initialised already", inUse.Library, "CKR_CRYPTOKI_ALREADY_INITIALIZED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := pkcs11.Open(test.path)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.path) {
				t.Errorf("want an error with %q and the path, got %v", test.want, err)
			}
		})
	}
}

// TestInitializeFails takes SoftHSM's configuration away.
func TestInitializeFails(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	if err := os.Remove(token.Conf); err != nil {
		t.Fatal(err)
	}
	_, err := pkcs11.Open(token.Library)
	if err == nil || !strings.Contains(err.Error(), token.Library) || !strings.Contains(err.Error(), "C_Initialize") {
		t.Errorf("want an error of C_Initialize with the path, got %v", err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	module := open(t, token.Library)
	all, err := module.Tokens()
	if err != nil || len(all) != 2 {
		t.Fatalf("want the token and SoftHSM's empty slot, got %+v, %v", all, err)
	}
	slot, empty, absent := all[0].SlotID, all[1].SlotID, uint(1<<30)

	for _, test := range []struct {
		name     string
		selector pkcs11.Selector
		err      error
	}{
		{"serial", pkcs11.Selector{Serial: token.Serial}, nil},
		{"label", pkcs11.Selector{Label: token.Label}, nil},
		{"slot", pkcs11.Selector{SlotID: &slot}, nil},
		{"all three", pkcs11.Selector{Serial: token.Serial, Label: token.Label, SlotID: &slot}, nil},
		{"serial of one and slot of the other", pkcs11.Selector{Serial: token.Serial, SlotID: &empty}, pkcs11.ErrTokenAbsent},
		{"no such serial", pkcs11.Selector{Serial: "absent"}, pkcs11.ErrTokenAbsent},
		{"no such label", pkcs11.Selector{Label: "absent"}, pkcs11.ErrTokenAbsent},
		{"part of a label", pkcs11.Selector{Label: token.Label[:4]}, pkcs11.ErrTokenAbsent},
		{"no such slot", pkcs11.Selector{SlotID: &absent}, pkcs11.ErrTokenAbsent},
		{"any", pkcs11.Selector{}, pkcs11.ErrTokenAmbiguous},
	} {
		t.Run(test.name, func(t *testing.T) {
			info, err := module.Find(test.selector)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, not %v", err, test.err)
			}
			if err == nil {
				if info.Serial != token.Serial {
					t.Errorf("found %+v", info)
				}
				return
			}
			for _, seen := range []string{test.selector.String(), token.Serial, token.Label} {
				if !strings.Contains(err.Error(), seen) {
					t.Errorf("the error does not name %q: %v", seen, err)
				}
			}
		})
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	// libccid's name of a Pico HSM, as OpenSC gives it.
	pico := pkcs11.TokenInfo{Serial: "ESPICOHSMTR00001", Label: "Pico-HSM", SlotID: 1, Reader: "Pol Henarejos Pico HSM [CCID] (E6614C311B4FC726) 00 00"}
	slot := uint(2)
	for name, c := range map[string]struct {
		selector pkcs11.Selector
		want     bool
	}{
		"own serial number":     {pkcs11.Selector{Serial: "ESPICOHSMTR00001"}, true},
		"that of the device":    {pkcs11.Selector{Serial: "E6614C311B4FC726"}, true},
		"a part of it":          {pkcs11.Selector{Serial: "E6614C311B4FC72"}, false},
		"the end of it":         {pkcs11.Selector{Serial: "6614C311B4FC726"}, false},
		"another one":           {pkcs11.Selector{Serial: "E6614C311B4FC727"}, false},
		"a word of the name":    {pkcs11.Selector{Serial: "CCID"}, false},
		"with the wrong label":  {pkcs11.Selector{Serial: "E6614C311B4FC726", Label: "other"}, false},
		"with the wrong slot":   {pkcs11.Selector{Serial: "E6614C311B4FC726", SlotID: &slot}, false},
		"the label":             {pkcs11.Selector{Label: "Pico-HSM"}, true},
		"nothing in particular": {pkcs11.Selector{}, true},
	} {
		if c.selector.Matches(pico) != c.want {
			t.Errorf("%s: %t, want %t", name, !c.want, c.want)
		}
	}
}

func TestTokenInfo(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	info := find(t, open(t, token.Library), token)
	if info.Manufacturer != "SoftHSM project" || info.Model != "SoftHSM v2" || info.Label != token.Label {
		t.Errorf("strings are not trimmed: %+v", info)
	}
	if !strings.HasPrefix(info.Reader, "SoftHSM slot ID") {
		t.Errorf("reader %q", info.Reader)
	}
	if !strings.HasPrefix(info.FirmwareVersion, "2.") {
		t.Errorf("firmware version %q", info.FirmwareVersion)
	}
	if !info.Initialized || !info.UserPINInitialized || info.UserPINCountLow || info.UserPINFinalTry || info.UserPINLocked {
		t.Errorf("flags of a new token: %+v", info)
	}
}

// TestPINFlags pins down what SoftHSM does with CKF_USER_PIN_COUNT_LOW, which
// the PIN latch relies on: set by one wrong PIN, seen by another process,
// cleared by the next login.
func TestPINFlags(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	module := open(t, token.Library)
	slot := find(t, module, token).SlotID
	session := openSession(t, module, token)
	countLow := func(m *pkcs11.Module) bool {
		info, err := m.TokenInfo(slot)
		if err != nil {
			t.Fatal(err)
		}
		return info.UserPINCountLow
	}

	if err := session.Login([]byte("wrong pin")); pkcs11.ClassOf(err) != pkcs11.ClassPINRejected {
		t.Fatalf("wrong PIN: %v", err)
	}
	if !countLow(module) || !countLow(open(t, token.CopyLibrary(t))) {
		t.Error("CKF_USER_PIN_COUNT_LOW is not set after a wrong PIN")
	}
	login(t, session, token)
	if countLow(module) || countLow(open(t, token.CopyLibrary(t))) {
		t.Error("CKF_USER_PIN_COUNT_LOW is still set after a login")
	}
}

func TestReinitialize(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	module := open(t, token.Library)
	session := openSession(t, module, token)
	login(t, session, token)
	handle, err := session.Create("label", "application", []byte("value"))
	if err != nil {
		t.Fatal(err)
	}
	if err := module.Reinitialize(); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Value(handle); pkcs11.ClassOf(err) != pkcs11.ClassReconnect {
		t.Errorf("a session of before: %v", err)
	}
	session = openSession(t, module, token)
	login(t, session, token)
	objects, err := session.Objects()
	if err != nil || len(objects) != 1 {
		t.Errorf("objects afterwards: %v, %v", objects, err)
	}
	if err := module.Close(); err != nil {
		t.Fatal(err)
	}
	if err := module.Reinitialize(); err != nil {
		t.Errorf("reinitialise after C_Finalize: %v", err)
	}
}

func TestProvision(t *testing.T) {
	t.Parallel()
	token := softhsm.NewBlank(t)
	module := open(t, token.Library)
	slot := find(t, module, token).SlotID

	if err := module.InitToken(slot, []byte(token.SOPIN), strings.Repeat("l", 33)); err == nil {
		t.Error("a label of 33 bytes was taken")
	}
	if err := module.InitToken(slot, []byte("wrong SO PIN"), "label"); pkcs11.ClassOf(err) != pkcs11.ClassPINRejected {
		t.Errorf("InitToken with a wrong SO PIN: %v", err)
	}
	if err := module.InitPIN(slot, []byte("wrong SO PIN"), []byte(token.PIN), false); pkcs11.ClassOf(err) != pkcs11.ClassPINRejected {
		t.Errorf("InitPIN with a wrong SO PIN: %v", err)
	}
	if err := module.InitToken(slot, []byte(token.SOPIN), "provisioned"); err != nil {
		t.Fatal(err)
	}
	if err := module.InitPIN(slot, []byte(token.SOPIN), []byte("1"), false); pkcs11.ClassOf(err) != pkcs11.ClassPINUnfit {
		t.Errorf("InitPIN of one digit: %v", err)
	}
	if err := module.InitPIN(slot, []byte(token.SOPIN), []byte(token.PIN), false); err != nil {
		t.Fatal(err)
	}
	info, err := module.TokenInfo(slot)
	if err != nil || !info.UserPINInitialized || info.Label != "provisioned" {
		t.Errorf("token info afterwards: %+v, %v", info, err)
	}
	session, err := module.OpenSession(slot)
	if err != nil {
		t.Fatal(err)
	}
	login(t, session, token)
	if _, err := session.Create("label", "application", []byte("value")); err != nil {
		t.Fatal(err)
	}
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}

	if err := module.InitToken(slot, []byte(token.SOPIN), "again"); !errors.Is(err, pkcs11.ErrNotBlank) {
		t.Errorf("InitToken of a token in use: %v", err)
	}
	if err := module.InitPIN(slot, []byte(token.SOPIN), []byte("87654321"), false); !errors.Is(err, pkcs11.ErrNotBlank) {
		t.Errorf("InitPIN of a token in use: %v", err)
	}
	if session, err = module.OpenSession(slot); err != nil {
		t.Fatal(err)
	}
	login(t, session, token)
	if objects, err := session.Objects(); err != nil || len(objects) != 1 {
		t.Errorf("objects after refused initialisations: %v, %v", objects, err)
	}
}

func open(t *testing.T, library string) *pkcs11.Module {
	t.Helper()
	module, err := pkcs11.Open(library)
	if err != nil {
		t.Fatal(err)
	}
	return module
}

func find(t *testing.T, module *pkcs11.Module, token softhsm.Token) pkcs11.TokenInfo {
	t.Helper()
	info, err := module.Find(pkcs11.Selector{Serial: token.Serial})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func openSession(t *testing.T, module *pkcs11.Module, token softhsm.Token) *pkcs11.Session {
	t.Helper()
	session, err := module.OpenSession(find(t, module, token).SlotID)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

func login(t *testing.T, session *pkcs11.Session, token softhsm.Token) {
	t.Helper()
	if err := session.Login([]byte(token.PIN)); err != nil {
		t.Fatal(err)
	}
}
