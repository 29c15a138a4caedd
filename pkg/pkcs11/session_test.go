// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"bytes"
	"fmt"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/softhsm"
)

func loggedIn(t *testing.T) (*pkcs11.Module, *pkcs11.Session, softhsm.Token) {
	t.Helper()
	token := softhsm.New(t)
	module := open(t, token.Library)
	session := openSession(t, module, token)
	login(t, session, token)
	return module, session, token
}

func TestObjects(t *testing.T) {
	t.Parallel()
	_, session, _ := loggedIn(t)
	// More than one batch of C_FindObjects; the values are of all byte values,
	// empty, and larger than any hardware token takes.
	const count = 600
	values := map[string][]byte{}
	handles := map[string]pkcs11.Handle{}
	for i := range count {
		label := fmt.Sprintf("läbel-%d", i)
		value := bytes.Repeat([]byte{byte(i)}, i%7)
		if i == 0 {
			value = bytes.Repeat([]byte{0xa5}, 100_000)
		}
		handle, err := session.Create(label, "app", value)
		if err != nil {
			t.Fatal(err)
		}
		values[label], handles[label] = value, handle
	}
	objects, err := session.Objects()
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != count {
		t.Fatalf("%d objects of %d", len(objects), count)
	}
	for _, o := range objects {
		if o.Application != "app" || o.Handle != handles[o.Label] {
			t.Fatalf("listed %+v, created handle %d", o, handles[o.Label])
		}
		value, err := session.Value(o.Handle)
		if err != nil || !bytes.Equal(value, values[o.Label]) {
			t.Fatalf("value of %s: %x, %v; want %x", o.Label, value, err, values[o.Label])
		}
	}
}

func TestDestroy(t *testing.T) {
	t.Parallel()
	_, session, _ := loggedIn(t)
	keep, err := session.Create("same", "app", []byte("keep"))
	if err != nil {
		t.Fatal(err)
	}
	gone, err := session.Create("same", "app", []byte("gone"))
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Destroy(gone); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Value(gone); pkcs11.ClassOf(err) != pkcs11.ClassReconnect {
		t.Errorf("value of a destroyed object: %v", err)
	}
	objects, err := session.Objects()
	if err != nil || len(objects) != 1 || objects[0].Handle != keep {
		t.Errorf("objects: %v, %v", objects, err)
	}
}

func TestPrivateWithoutLogin(t *testing.T) {
	t.Parallel()
	_, session, token := loggedIn(t)
	if _, err := session.Create("label", "app", []byte("value")); err != nil {
		t.Fatal(err)
	}
	other := openSession(t, open(t, token.CopyLibrary(t)), token)
	if objects, err := other.Objects(); err != nil || len(objects) != 0 {
		t.Errorf("without a login: %v, %v", objects, err)
	}
	if _, err := other.Create("label", "app", []byte("value")); pkcs11.ClassOf(err) != pkcs11.ClassRelogin {
		t.Errorf("create without a login: %v", err)
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	module, session, token := loggedIn(t)
	// Logged in already: logout and login again, without a word.
	login(t, session, token)
	if logins := module.Calls().Logins; logins != 3 {
		t.Errorf("%d logins, not 3", logins)
	}
	if _, err := session.Create("label", "app", nil); err != nil {
		t.Errorf("after the second login: %v", err)
	}
	// The binding's error texts must not carry the PIN.
	other := softhsm.New(t)
	session = openSession(t, open(t, other.Library), other)
	err := session.Login([]byte("8a9b-wrong"))
	if pkcs11.ClassOf(err) != pkcs11.ClassPINRejected || bytes.Contains([]byte(err.Error()), []byte("8a9b")) {
		t.Errorf("wrong PIN: %v", err)
	}
}

func TestRandom(t *testing.T) {
	t.Parallel()
	_, session, _ := loggedIn(t)
	first, err := session.Random(32)
	if err != nil || len(first) != 32 {
		t.Fatalf("%x, %v", first, err)
	}
	second, err := session.Random(32)
	if err != nil || bytes.Equal(first, second) {
		t.Errorf("twice the same, or %v", err)
	}
}

func TestCountKeys(t *testing.T) {
	t.Parallel()
	_, session, _ := loggedIn(t)
	for pairs := range 3 {
		if n, err := session.CountKeys(); n != 2*pairs || err != nil {
			t.Errorf("%d key pairs were counted as %d keys: %v", pairs, n, err)
		}
		if _, err := session.GenerateKeyPair(fmt.Sprint("pair ", pairs)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCalls(t *testing.T) {
	t.Parallel()
	module, session, _ := loggedIn(t)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		must(session.Create("label", "app", []byte("value")))
	}
	objects, err := session.Objects()
	must(objects, err)
	must(session.Value(objects[0].Handle))
	must(session.Value(objects[0].Handle))
	must(nil, session.Destroy(objects[0].Handle))
	must(session.Random(1))
	pair, err := session.GenerateKeyPair("pair")
	must(pair, err)
	must(pair.ECDH(pair.PublicKey()))
	want := pkcs11.Calls{
		Logins: 1, Finds: 2, LabelReads: 3, ValueReads: 2, Creates: 3, Destroys: 1, KeyPairs: 1, Derives: 1, Randoms: 1,
	}
	if got := module.Calls(); got != want {
		t.Errorf("counted %+v, not %+v", got, want)
	}
}
