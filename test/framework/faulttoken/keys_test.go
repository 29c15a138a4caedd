// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"bytes"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
)

func TestKeyPairOnPico(t *testing.T) {
	t.Parallel()
	fact(t, "EC key generation, ECDH and C_GenerateRandom work through OpenSC")
	fact(t, "the key pair on the token is the only identity that cannot be imitated")
	a, b := New(PicoNext), New(PicoNext)
	first, err := open(t, a).GenerateKeyPair("hsm")
	if err != nil {
		t.Fatal(err)
	}
	second, err := open(t, b).GenerateKeyPair("hsm")
	if err != nil {
		t.Fatal(err)
	}
	if a.Info() != b.Info() || first.PublicKey().Equal(second.PublicKey()) {
		t.Error("two tokens are told apart by what they say, or not by their keys")
	}
	one, err := first.ECDH(second.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	other, err := second.ECDH(first.PublicKey())
	if err != nil || !bytes.Equal(one, other) {
		t.Errorf("the secrets differ, %v", err)
	}
}

func TestKeyBackup(t *testing.T) {
	t.Parallel()
	fact(t, "data objects are in no key backup")
	fact(t, "backup of the key by DKEK works: the same share on a fresh token unwraps it")
	tok := New(PicoNext)
	if err := tok.InitToken(SOPIN, nil); err != nil {
		t.Fatal(err)
	}
	tok.ImportKeyShare("share")
	s := open(t, tok)
	pair, err := s.GenerateKeyPair("hsm")
	if err != nil {
		t.Fatal(err)
	}
	create(t, s, "a", 1)
	backup, err := tok.WrapKey("hsm")
	if err != nil {
		t.Fatal(err)
	}
	fresh := New(PicoNext)
	if err := fresh.UnwrapKey("hsm", backup); err == nil {
		t.Error("it was unwrapped without a share")
	}
	fresh.ImportKeyShare("another")
	if err := fresh.UnwrapKey("hsm", backup); err == nil {
		t.Error("it was unwrapped with another share")
	}
	fresh.ImportKeyShare("share")
	if err := fresh.UnwrapKey("hsm", backup); err != nil {
		t.Fatal(err)
	}
	s = open(t, fresh)
	again, err := s.KeyPair("hsm")
	if err != nil || !again.PublicKey().Equal(pair.PublicKey()) {
		t.Errorf("the key is another one, %v", err)
	}
	if got := len(list(t, s)); got != 0 {
		t.Errorf("%d data objects came with it", got)
	}
}

func TestPINs(t *testing.T) {
	t.Parallel()
	tok := New(PicoNext)
	s := open(t, tok)
	create(t, s, "a", 1)
	fact(t, "a PIN has 6 to 15 characters")
	for _, pin := range []string{"12345", strings.Repeat("1", 16)} {
		if err := s.SetPIN([]byte(PIN), []byte(pin)); code(err) != pkcs11.CKRPINLenRange {
			t.Errorf("a PIN of %d characters: %v", len(pin), err)
		}
	}
	if err := s.SetPIN([]byte(PIN), []byte(strings.Repeat("1", 15))); err != nil {
		t.Error(err)
	}
	if s = open(t, tok); s.login < 0 {
		t.Error("the new PIN does not log in")
	}
	fact(t, "a wrong PIN gives 0xA0, the third already 0xA4; then no PIN is right")
	fact(t, "the flags COUNT_LOW, FINAL_TRY and LOCKED tell the tries before a login")
	s.Logout()
	for i, want := range []uint{pkcs11.CKRPINIncorrect, pkcs11.CKRPINIncorrect, pkcs11.CKRPINLocked} {
		if info := tok.Info(); info.UserPINCountLow != (i > 0) || info.UserPINFinalTry != (i == 2) || info.UserPINLocked {
			t.Errorf("before try %d the flags are %+v", i+1, info)
		}
		if err := s.Login([]byte("000000")); code(err) != want {
			t.Errorf("wrong PIN number %d gave %v", i+1, err)
		}
	}
	if err := s.Login([]byte(strings.Repeat("1", 15))); code(err) != pkcs11.CKRPINLocked || !tok.Info().UserPINLocked {
		t.Errorf("the right PIN of a locked token gave %v", err)
	}
	fact(t, "the SO-PIN, 16 hex digits, unblocks without loss")
	if err := tok.InitPIN("0000000000000000", PIN); code(err) != pkcs11.CKRPINIncorrect {
		t.Errorf("a wrong SO-PIN gave %v", err)
	}
	if err := tok.InitPIN(SOPIN, PIN); err != nil {
		t.Error(err)
	}
	if got := len(list(t, open(t, tok))); got != 1 {
		t.Errorf("%d objects are left", got)
	}
	fact(t, "re-initialising wipes all")
	if err := tok.InitToken("1234", nil); code(err) != pkcs11.CKRPINLenRange {
		t.Errorf("a short SO-PIN gave %v", err)
	}
	if err := tok.InitToken(SOPIN, nil); err != nil {
		t.Error(err)
	}
	if got := len(tok.Flash()) + tok.KeyPairs(); got != 0 {
		t.Errorf("%d objects and keys are left", got)
	}
}
