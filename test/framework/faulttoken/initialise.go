// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"crypto/ecdh"
	"crypto/rand"
	"strings"

	"j5t.io/hsm/pkg/pkcs11"
)

const (
	// PIN is the right one, of New.
	PIN = "648219"
	// SOPIN is that of the security officer, of New.
	SOPIN = "3537363231383830"

	initToken = "C_InitToken"
	initPIN   = "C_InitPIN"
	setPIN    = "C_SetPIN"
	wrapKey   = "WRAP KEY" // Of the card; PKCS#11 cannot do it.
	unwrapKey = "UNWRAP KEY"

	// The PINs that a Pico HSM takes.
	minPIN, maxPIN, soPINBytes = 6, 15, 16
)

// NewBlank makes a token as it comes from the factory.
func NewBlank(p Profile) *Token {
	return &Token{
		profile: p, serial: "FAULT0001", present: true, flash: newFlash(p.Flash),
		pairs: map[string]*keyPair{}, faults: map[string][]Fault{},
		counters: Counters{Calls: map[string]int{}},
	}
}

// InitToken is C_InitToken: it wipes the token. A nil label is the NULL of C, which no
// Go string becomes: a binding pads an empty one with blanks.
func (t *Token) InitToken(soPIN string, label *string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.reachable():
		return failed(initToken, pkcs11.CKRTokenNotPresent)
	case len(soPIN) != soPINBytes:
		return failed(initToken, pkcs11.CKRPINLenRange)
	case t.soPIN != "" && soPIN != t.soPIN:
		return failed(initToken, pkcs11.CKRPINIncorrect)
	}
	t.epoch++
	t.loseLogin()
	t.files, t.pairs, t.journal, t.certificates, t.share = nil, map[string]*keyPair{}, nil, 0, ""
	t.flash.format()
	t.soPIN, t.pin, t.wrongs = soPIN, soPIN[:minPIN], 0 // So OpenSC does.
	if label == nil || !t.profile.LabelKills {
		return nil
	}
	if strings.Trim(*label, " ") != "" { // OpenSC writes file 2F03, which the firmware takes for memory of its own.
		t.dead = true
	}
	return failed(initToken, pkcs11.CKRGeneralError)
}

// InitPIN is C_InitPIN after a login of the security officer. It unblocks the token, and
// nothing on it is lost.
func (t *Token) InitPIN(soPIN, pin string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.reachable():
		return failed(initPIN, pkcs11.CKRTokenNotPresent)
	case soPIN != t.soPIN:
		return failed(Login, pkcs11.CKRPINIncorrect)
	case len(pin) < minPIN || len(pin) > maxPIN:
		return failed(initPIN, pkcs11.CKRPINLenRange)
	}
	t.pin, t.wrongs = pin, 0
	return nil
}

// SetPIN is C_SetPIN.
func (s *Session) SetPIN(old, pin []byte) error {
	return s.call(setPIN, true, func() error {
		t := s.token
		if len(pin) < minPIN || len(pin) > maxPIN {
			return failed(setPIN, pkcs11.CKRPINLenRange)
		}
		if code := t.tryPIN(old); code != 0 {
			return failed(setPIN, code)
		}
		return s.step(setPIN, func() { t.pin = string(pin) })
	})
}

// tryPIN counts wrong PINs; 0 is the right one.
func (t *Token) tryPIN(pin []byte) (code uint) {
	switch {
	case t.wrongs >= t.profile.PINTries:
		return pkcs11.CKRPINLocked
	case t.pin == "" || string(pin) != t.pin:
		if t.wrongs++; t.wrongs >= t.profile.PINTries {
			return pkcs11.CKRPINLocked
		}
		return pkcs11.CKRPINIncorrect
	}
	return 0
}

// KeyBackup is a wrapped key. It holds keys only, no data objects.
type KeyBackup struct {
	share   string
	private *ecdh.PrivateKey
}

// ImportKeyShare imports the one share of the key that wraps keys (DKEK). The token must
// just have been initialised.
func (t *Token) ImportKeyShare(share string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.share = share
}

// WrapKey is the backup of a key pair.
func (t *Token) WrapKey(label string) (KeyBackup, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pair := t.pairs[label]
	if t.share == "" || pair == nil {
		return KeyBackup{}, failed(wrapKey, pkcs11.CKRFunctionFailed)
	}
	return KeyBackup{t.share, pair.private}, nil
}

// UnwrapKey brings a key pair onto a token with the same share.
func (t *Token) UnwrapKey(label string, b KeyBackup) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.share == "" || b.share != t.share {
		return failed(unwrapKey, pkcs11.CKRFunctionFailed)
	}
	t.putKeyPair(label, b.private)
	return nil
}

func newKeyPair() (*ecdh.PrivateKey, error) { return ecdh.P256().GenerateKey(rand.Reader) }
