// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pinlatch"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

const (
	// defaultTokenLabel is what a token is named that is initialised.
	defaultTokenLabel = "hsm.j5t.io"
	// formattingFile is in the state directory from before a token is formatted until
	// its user PIN is set: it may have another one in between.
	formattingFile = "formatting"
)

// isFormatting reports whether this agent has begun to format the token, and has not set
// its user PIN.
func (p *pins) isFormatting() bool {
	_, err := os.Stat(filepath.Join(p.dir, formattingFile))
	return err == nil
}

// initialise gives a token that has no user PIN the one of the PIN file.
func (p *pins) initialise(t pkcs11.TokenInfo) error {
	var err error
	if p.attempted, err = p.hashFiles(); err != nil {
		return uninitialisedError{err}
	}
	if p.soFile == "" {
		return uninitialisedError{fmt.Errorf("token %q has no user PIN, and is not to be initialised: give --provision and --so-pin-file for that", t.Serial)}
	}
	pin, err := pinlatch.ReadPIN(p.file)
	if err != nil {
		return uninitialisedError{err}
	}
	defer clear(pin)
	soPIN, err := pinlatch.ReadPIN(p.soFile)
	if err != nil {
		return uninitialisedError{fmt.Errorf("token %q has no user PIN, and there is no SO PIN to initialise it with: %w", t.Serial, err)}
	}
	defer clear(soPIN)
	// The flags in the token's information are of the user's PIN.
	err = p.soLatch.Attempt(soPIN, pkcs11.TokenInfo{Serial: t.Serial}, func(soPIN []byte) error {
		return p.format(t, soPIN, pin)
	})
	if err = p.note(err); err != nil {
		return uninitialisedError{fmt.Errorf("token %q has no user PIN, and could not be initialised with the SO PIN: %w", t.Serial, err)}
	}
	klog.InfoS("Token was initialised", "serial", t.Serial)
	return nil
}

// format formats a token, if need be, and sets its user PIN. If it is ended in the
// middle, the next attempt goes on.
func (p *pins) format(t pkcs11.TokenInfo, soPIN, pin []byte) error {
	note := filepath.Join(p.dir, formattingFile)
	formatting := p.isFormatting()
	if !t.UserPINInitialized && (!t.Initialized || p.isUnformatted(t)) {
		if err := p.mayFormat(t); err != nil {
			return err
		}
		if err := atomicfile.Replace(atomicfile.OS{}, note, nil); err != nil {
			return fmt.Errorf("write down that the token is being formatted: %w", err)
		}
		if err := p.module.InitToken(t.SlotID, soPIN, cmp.Or(t.Label, defaultTokenLabel)); err != nil {
			return err
		}
		formatting = true
	}
	if err := p.module.InitPIN(t.SlotID, soPIN, pin, formatting); err != nil {
		return err
	}
	if err := atomicfile.Remove(atomicfile.OS{}, note); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write down that the token is formatted: %w", err)
	}
	return nil
}

// isUnformatted reports whether a token without a user PIN has never been formatted, and
// has no SO PIN either, though it says CKF_TOKEN_INITIALIZED: OpenSC says that of
// every card (framework-pkcs15.c, pkcs15_init_slot), and of a SmartCard-HSM, which
// the Pico HSM is to OpenSC, that it has a user PIN once it is formatted. As it comes from
// the factory it has no serial number and names no manufacturer either.
func (p *pins) isUnformatted(t pkcs11.TokenInfo) bool {
	if t.Manufacturer == "" && t.Serial == "" {
		return true
	}
	name := cmp.Or(p.profile.Name, token.ProfileFor(t).Name)
	return strings.HasPrefix(name, "pico") || name == "smartcard-hsm"
}

// mayFormat refuses a token on which formatting would destroy something. What needs a
// login to be seen cannot be there: nobody could have logged in.
func (p *pins) mayFormat(t pkcs11.TokenInfo) error {
	session, err := p.module.OpenSession(t.SlotID)
	if err != nil {
		return nil //nolint:nilerr // There is nothing that could be read.
	}
	objects, err := session.Objects()
	keys, keysErr := session.CountKeys()
	if closing := session.Close(); closing != nil {
		klog.V(2).InfoS("Closing the session with the token failed", "err", closing)
	}
	if err == nil && len(objects) > 0 {
		return fmt.Errorf("it holds %d objects, as %q, which formatting would destroy; choose another token, or format this one yourself", len(objects), objects[0].Label)
	}
	if err == nil && keysErr != nil {
		return fmt.Errorf("whether it holds keys or certificates, which formatting would destroy, is not known (%w); format it yourself", keysErr)
	}
	if keysErr == nil && keys > 0 {
		return fmt.Errorf("it holds %d keys and certificates of others, which formatting would destroy; choose another token, or format this one yourself", keys)
	}
	return nil
}
