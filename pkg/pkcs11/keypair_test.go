// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/asn1"
	"strings"
	"testing"

	binding "github.com/miekg/pkcs11"

	"j5t.io/hsm/test/framework/softhsm"
)

func TestECDH(t *testing.T) {
	t.Parallel()
	_, session, token := loggedIn(t)
	made, err := session.GenerateKeyPair("store")
	if err != nil {
		t.Fatal(err)
	}
	found, err := session.KeyPair("store")
	if err != nil || found == nil {
		t.Fatalf("found %v, %v", found, err)
	}
	if !found.PublicKey().Equal(made.PublicKey()) {
		t.Error("the pair that was found has another public key than the one that was made")
	}
	for range 20 {
		remote, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		want, err := remote.ECDH(found.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		got, err := found.ECDH(remote.PublicKey())
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("ECDH on the token: %v, or not as crypto/ecdh", err)
		}
	}
	if left := otherApplication(t, token).find(binding.NewAttribute(binding.CKA_CLASS, binding.CKO_SECRET_KEY)); len(left) != 0 {
		t.Errorf("%d shared secrets left on the token", len(left))
	}

	other, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := found.ECDH(other.PublicKey()); err == nil {
		t.Error("a key of another curve was taken")
	}
}

// TestPrivateKeyAttributes asks the token, because a private key that can be
// read would open every store that was ever sealed to it.
func TestPrivateKeyAttributes(t *testing.T) {
	t.Parallel()
	_, session, token := loggedIn(t)
	if _, err := session.GenerateKeyPair("store"); err != nil {
		t.Fatal(err)
	}
	app := otherApplication(t, token)
	private := app.find(binding.NewAttribute(binding.CKA_CLASS, binding.CKO_PRIVATE_KEY))
	if len(private) != 1 {
		t.Fatalf("%d private keys", len(private))
	}
	for _, attribute := range []struct {
		name  string
		id    uint
		value byte
	}{
		{"CKA_TOKEN", binding.CKA_TOKEN, 1},
		{"CKA_PRIVATE", binding.CKA_PRIVATE, 1},
		{"CKA_SENSITIVE", binding.CKA_SENSITIVE, 1},
		{"CKA_NEVER_EXTRACTABLE", binding.CKA_NEVER_EXTRACTABLE, 1},
		{"CKA_EXTRACTABLE", binding.CKA_EXTRACTABLE, 0},
		{"CKA_DERIVE", binding.CKA_DERIVE, 1},
	} {
		value, err := app.read(private[0], attribute.id)
		if err != nil || !bytes.Equal(value, []byte{attribute.value}) {
			t.Errorf("%s: %x, %v; want %d", attribute.name, value, err, attribute.value)
		}
	}
	if _, err := app.read(private[0], binding.CKA_VALUE); err == nil {
		t.Error("the private key can be read")
	}
}

// TestDataObjectAttributes asks the token for what Create promises.
func TestDataObjectAttributes(t *testing.T) {
	t.Parallel()
	_, session, token := loggedIn(t)
	if _, err := session.Create("label", "app", []byte("value")); err != nil {
		t.Fatal(err)
	}
	app := otherApplication(t, token)
	data := app.find(binding.NewAttribute(binding.CKA_CLASS, binding.CKO_DATA))
	if len(data) != 1 {
		t.Fatalf("%d data objects", len(data))
	}
	for _, attribute := range []struct {
		name  string
		id    uint
		value string
	}{
		{"CKA_TOKEN", binding.CKA_TOKEN, "\x01"},
		{"CKA_PRIVATE", binding.CKA_PRIVATE, "\x01"},
		{"CKA_MODIFIABLE", binding.CKA_MODIFIABLE, "\x00"},
		{"CKA_APPLICATION", binding.CKA_APPLICATION, "app\x00"},
	} {
		value, err := app.read(data[0], attribute.id)
		if err != nil || string(value) != attribute.value {
			t.Errorf("%s: %q, %v; want %q", attribute.name, value, err, attribute.value)
		}
	}
}

func TestKeyPairErrors(t *testing.T) {
	t.Parallel()
	_, session, token := loggedIn(t)
	if pair, err := session.KeyPair("absent"); pair != nil || err != nil {
		t.Errorf("an absent pair: %v, %v", pair, err)
	}
	if _, err := session.GenerateKeyPair("store"); err != nil {
		t.Fatal(err)
	}
	if _, err := session.GenerateKeyPair("store"); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("a second pair of the same label: %v", err)
	}
	if pair, err := session.KeyPair("stor"); pair != nil || err != nil {
		t.Errorf("a prefix of the label: %v, %v", pair, err)
	}

	app := otherApplication(t, token)
	p256, p384 := asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, asn1.ObjectIdentifier{1, 3, 132, 0, 34}
	app.generate("p384", p384)
	app.destroy(app.generate("half", p256))
	app.generate("twice", p256)
	app.generate("twice", p256)
	for label, want := range map[string]string{
		"p384": "not of curve P-256", "half": "not its public key", "twice": "2 such keys",
	} {
		if _, err := session.KeyPair(label); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pair %s: want an error with %q, got %v", label, want, err)
		}
	}
}

// application is another program that uses the token, through another copy of
// the module and without anything of ours.
type application struct {
	t       *testing.T
	ctx     *binding.Ctx
	session binding.SessionHandle
}

func otherApplication(t *testing.T, token softhsm.Token) application {
	t.Helper()
	library := token.CopyLibrary(t)
	open(t, library) // Calls C_Initialize, one module at a time.
	a := application{t: t, ctx: binding.New(library)}
	slots, err := a.ctx.GetSlotList(true)
	a.must(err)
	for _, slot := range slots {
		if info, err := a.ctx.GetTokenInfo(slot); err == nil && info.SerialNumber == token.Serial {
			a.session, err = a.ctx.OpenSession(slot, binding.CKF_SERIAL_SESSION|binding.CKF_RW_SESSION)
			a.must(err)
			a.must(a.ctx.Login(a.session, binding.CKU_USER, token.PIN))
			return a
		}
	}
	t.Fatalf("no token of serial %s", token.Serial)
	return a
}

func (a application) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a application) find(attributes ...*binding.Attribute) []binding.ObjectHandle {
	a.t.Helper()
	a.must(a.ctx.FindObjectsInit(a.session, attributes))
	handles, _, err := a.ctx.FindObjects(a.session, 10)
	a.must(err)
	a.must(a.ctx.FindObjectsFinal(a.session))
	return handles
}

func (a application) read(object binding.ObjectHandle, attribute uint) ([]byte, error) {
	values, err := a.ctx.GetAttributeValue(a.session, object, []*binding.Attribute{binding.NewAttribute(attribute, nil)})
	if err != nil {
		return nil, err
	}
	return values[0].Value, nil
}

// generate makes an EC key pair and returns its public key.
func (a application) generate(label string, curve asn1.ObjectIdentifier) binding.ObjectHandle {
	a.t.Helper()
	params, err := asn1.Marshal(curve)
	a.must(err)
	common := []*binding.Attribute{binding.NewAttribute(binding.CKA_TOKEN, true), binding.NewAttribute(binding.CKA_LABEL, label)}
	public, _, err := a.ctx.GenerateKeyPair(a.session,
		[]*binding.Mechanism{binding.NewMechanism(binding.CKM_EC_KEY_PAIR_GEN, nil)},
		append(common[:2:2], binding.NewAttribute(binding.CKA_EC_PARAMS, params)), common)
	a.must(err)
	return public
}

func (a application) destroy(object binding.ObjectHandle) {
	a.t.Helper()
	a.must(a.ctx.DestroyObject(a.session, object))
}
