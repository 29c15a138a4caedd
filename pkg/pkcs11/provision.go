// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// maxTokenLabel is the size of the label in CK_TOKEN_INFO, in bytes.
const maxTokenLabel = 32

// ErrNotBlank is in the chain when a token that has a user PIN was to be
// initialised. Nothing here ever does that: it would wipe the token.
var ErrNotBlank = errorf(ClassNotBlank, "the token is not blank: it has a user PIN")

// labelUse is what a module does with the label that C_InitToken gets.
type labelUse int

const (
	// labelUnknown: a module that nobody has tried. One may pass the label on to OpenSC, as
	// p11-kit's proxy does.
	labelUnknown labelUse = iota
	labelSet
	// labelHarms: OpenSC writes a label into file 2F03, which the firmware of a Pico HSM takes
	// for an address in its own code: it overwrites itself, and is dead. With NULL
	// it formats, and writes none.
	labelHarms
)

func labelUseOf(manufacturer string) labelUse {
	switch trim(manufacturer) {
	case "OpenSC Project":
		return labelHarms
	case "SoftHSM":
		return labelSet
	}
	return labelUnknown
}

// InitToken formats a blank token and sets its security officer's PIN, and its
// label (at most 32 bytes) where that does no harm. On a token that was formatted before,
// the SO PIN must be the one that it has. A token with a user PIN is refused, and
// so is a module of which it is not known what it does with a label.
func (m *Module) InitToken(slotID uint, soPIN []byte, label string) error {
	if len(label) > maxTokenLabel {
		return errorf(ClassInvalid, "token label %q is longer than %d bytes", label, maxTokenLabel)
	}
	if err := m.requireBlank(slotID); err != nil {
		return err
	}
	info, err := m.ctx.GetInfo()
	if err != nil {
		return wrap("C_GetInfo", err)
	}
	switch labelUseOf(info.ManufacturerID) {
	case labelHarms:
		return m.initTokenWithoutLabel(slotID, soPIN)
	case labelSet:
		return wrap("C_InitToken", m.ctx.InitToken(slotID, alias(soPIN), label))
	}
	return errorf(ClassInvalid, "module %s by %q is not known to initialise tokens without harm: some firmware dies of the label that it may write. Nothing was changed; initialise the token with its maker's tool, set a user PIN, and start the agent again", m.path, trim(info.ManufacturerID))
}

// InitPIN sets the user PIN of a formatted token that has none. A token with a
// user PIN is refused, unless it is justFormatted: by the caller's InitToken, after
// which some have the beginning of the SO PIN as their user PIN (OpenSC,
// card-sc-hsm.c, sc_hsm_init_token).
func (m *Module) InitPIN(slotID uint, soPIN, userPIN []byte, justFormatted bool) (err error) {
	if !justFormatted {
		if err := m.requireBlank(slotID); err != nil {
			return err
		}
	}
	session, err := m.OpenSession(slotID)
	if err != nil {
		return err
	}
	// Closing the only session logs the security officer out.
	defer func() { err = errors.Join(err, session.Close()) }()
	if err := m.ctx.Login(session.handle, pkcs11.CKU_SO, alias(soPIN)); err != nil {
		return wrap("C_Login", err)
	}
	return wrap("C_InitPIN", m.ctx.InitPIN(session.handle, alias(userPIN)))
}

func (m *Module) requireBlank(slotID uint) error {
	info, err := m.TokenInfo(slotID)
	if err != nil {
		return err
	}
	if info.UserPINInitialized {
		return fmt.Errorf("slot %d, serial %q: %w", slotID, info.Serial, ErrNotBlank)
	}
	return nil
}
