// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"bytes"
	"fmt"

	"j5t.io/hsm/pkg/pkcs11"
)

// Reader is the way from a process to the token: the CCID reader that the token is in
// one with, pcscd, and opensc.conf.
type Reader struct {
	// USBSerial is the serial number of the USB device. Empty: the slot has no description.
	USBSerial string
	// ShortAPDUs: the reader or the driver has no extended APDUs.
	ShortAPDUs bool
	// UnknownToDriver: libccid does not know the USB identity (2e8a:10fd before 1.8).
	UnknownToDriver bool
	// Polkit: pcscd refuses clients in containers, because it was not started with --disable-polkit.
	Polkit bool

	// LockLogin and Atomic are the settings of opensc.conf.
	LockLogin, Atomic bool
}

// slotDescriptionBytes is the size of slotDescription in CK_SLOT_INFO.
const slotDescriptionBytes = 64

// Name is what PC/SC calls the reader.
func (r Reader) Name() string {
	if r.USBSerial == "" {
		return ""
	}
	return fmt.Sprintf("Nitrokey Nitrokey HSM [Pico Key CCID Interface] (%s) 00 00", r.USBSerial)
}

// slotDescription is what PKCS#11 gives of the name.
func (r Reader) slotDescription() string { return r.Name()[:min(len(r.Name()), slotDescriptionBytes)] }

// SetReader changes the way to the token.
func (t *Token) SetReader(r Reader) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reader = r
}

// Present reports whether PKCS#11 has a slot with the token in it.
func (t *Token) Present() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reachable()
}

func (t *Token) reachable() bool {
	return t.present && !t.dead && !t.reader.UnknownToDriver && !t.reader.Polkit
}

// Remove pulls the token, and its power with it.
func (t *Token) Remove() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.powerCut()
	t.present = false
}

// Insert puts the token back.
func (t *Token) Insert() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.present = true
}

// RestartPCSCD ends all sessions, and the login; the token keeps its power. What the
// processes hear is also what a killed one leaves behind: nothing.
func (t *Token) RestartPCSCD() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.epoch++
	t.loseLogin()
}

// LoseLogin logs all sessions out, as another client of PC/SC does that selects the card's
// applet, unless lock_login keeps it out.
func (t *Token) LoseLogin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.reader.LockLogin || !t.loggedIn {
		t.loseLogin()
	}
}

func (t *Token) loseLogin() {
	t.login++
	t.loggedIn = false
}

// ReadRaw is another process that reads the value of a private object past PKCS#11.
func (t *Token) ReadRaw(label string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.reachable() {
		return nil, failed(Read, pkcs11.CKRTokenNotPresent)
	}
	if !t.loggedIn || t.reader.LockLogin {
		return nil, failed(Read, pkcs11.CKRUserNotLoggedIn)
	}
	for _, f := range t.files {
		if f != nil && f.label == label {
			return bytes.Clone(f.value), nil
		}
	}
	return nil, failed(Read, pkcs11.CKRObjectHandleInvalid)
}
