// SPDX-License-Identifier: Apache-2.0

package softhsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/softhsm"
)

func TestNew(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	module := open(t, token.Library)
	info, err := module.Find(pkcs11.Selector{Serial: token.Serial})
	if err != nil {
		t.Fatal(err)
	}
	if !info.UserPINInitialized || info.Label != token.Label {
		t.Errorf("token info %+v", info)
	}
	session, err := module.OpenSession(info.SlotID)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Login([]byte(strings.TrimSpace(string(pin)))); err != nil {
		t.Errorf("login with the PIN of the PIN file: %v", err)
	}
	if entries, err := os.ReadDir(token.Dir); err != nil || len(entries) == 0 {
		t.Errorf("token directory: %v, %v", entries, err)
	}
	if conf, err := os.ReadFile(token.Conf); err != nil || !strings.Contains(string(conf), token.Dir) {
		t.Errorf("configuration: %q, %v", conf, err)
	}
}

func TestNewBlank(t *testing.T) {
	t.Parallel()
	token := softhsm.NewBlank(t)
	info, err := open(t, token.Library).Find(pkcs11.Selector{Serial: token.Serial})
	if err != nil {
		t.Fatal(err)
	}
	if !info.Initialized || info.UserPINInitialized {
		t.Errorf("token info of a blank token: %+v", info)
	}
}

// TestSeparateModules shows that a test sees no token of another test, and that
// C_Finalize of one token's module leaves the session of another one alone.
func TestSeparateModules(t *testing.T) {
	t.Parallel()
	first, second := softhsm.New(t), softhsm.New(t)
	module := open(t, first.Library)
	info, err := module.Find(pkcs11.Selector{Serial: first.Serial})
	if err != nil {
		t.Fatal(err)
	}
	session, err := module.OpenSession(info.SlotID)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Login([]byte(first.PIN)); err != nil {
		t.Fatal(err)
	}
	if _, err := module.Find(pkcs11.Selector{Serial: second.Serial}); !errors.Is(err, pkcs11.ErrTokenAbsent) {
		t.Errorf("the other token: %v", err)
	}
	for range 3 {
		if err := open(t, second.Library).Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := session.Create("label", "application", []byte("value")); err != nil {
			t.Fatalf("after C_Finalize of another module: %v", err)
		}
	}
}

func TestCreate(t *testing.T) {
	t.Setenv("SOFTHSM2_CONF", "") // Create changes it: have it put back.
	dir := t.TempDir()
	token, err := softhsm.Create(dir, "demo", "12345678")
	if err != nil {
		t.Fatal(err)
	}
	module := open(t, token.Library)
	info, err := module.Find(pkcs11.Selector{Label: "demo"})
	if err != nil || info.Serial != token.Serial {
		t.Errorf("found %+v, %v; want serial %q", info, err, token.Serial)
	}
	if err := module.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMissingModule(t *testing.T) {
	t.Setenv(softhsm.ModuleVariable, filepath.Join(t.TempDir(), "absent.so"))
	_, err := softhsm.Create(t.TempDir(), "label", "12345678")
	if err == nil || !strings.Contains(err.Error(), "absent.so") {
		t.Errorf("error does not name the module: %v", err)
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
