// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pinlatch"
	"j5t.io/hsm/pkg/pkcs11"
)

const (
	// soLatchDir lies in the state directory. Tokens count the wrong PINs of
	// their security officer by themselves.
	soLatchDir = "so-pin"
	// defaultTokenLabel is what a token is named that is initialised.
	defaultTokenLabel = "hsm.j5t.io"
)

// pins are the PINs that the agent may send, and the latches before them. A PIN
// is read from its file for each login and zeroed after it.
type pins struct {
	file, soFile   string
	latch, soLatch *pinlatch.Latch
	seed           maphash.Seed
	sent           uint64 // Hash of the PIN that the last attempt was about.
	leave          string // By which a person may allow another one; empty: none is needed.
}

// blankError is of a token without a user PIN that was not initialised.
type blankError struct{ error }

func (e blankError) Unwrap() error { return e.error }

// pinFileError is of a PIN file that has become unreadable.
type pinFileError struct{ error }

func (e pinFileError) Unwrap() error { return e.error }

func newPINs(o Options) (*pins, error) {
	soDir := filepath.Join(o.StateDir, soLatchDir)
	if err := os.MkdirAll(soDir, 0o700); err != nil {
		return nil, fmt.Errorf("use the state directory: %w", err)
	}
	p := &pins{
		file:    o.PINFile,
		latch:   pinlatch.New(o.StateDir, atomicfile.OS{}),
		soLatch: pinlatch.New(soDir, atomicfile.OS{}),
		seed:    maphash.MakeSeed(),
	}
	files := []string{o.PINFile}
	if o.Provision && o.SOPINFile != "" {
		p.soFile = o.SOPINFile
		files = append(files, o.SOPINFile)
	}
	for _, file := range files {
		pin, err := pinlatch.ReadPIN(file)
		if err != nil {
			return nil, err
		}
		clear(pin)
	}
	return p, nil
}

// changed tells whether a person has changed the PIN since the last attempt, or
// has allowed another one.
func (p *pins) changed() bool {
	if p.leave != "" {
		if _, err := os.Stat(p.leave); err == nil {
			return true
		}
	}
	pin, err := pinlatch.ReadPIN(p.file)
	if err != nil {
		return false
	}
	defer clear(pin)
	return maphash.Bytes(p.seed, pin) != p.sent
}

// login logs in, unless the PIN is one that must not be sent.
func (p *pins) login(r reader, s session) error {
	pin, err := pinlatch.ReadPIN(p.file)
	if err != nil {
		return pinFileError{err}
	}
	defer clear(pin)
	p.sent = maphash.Bytes(p.seed, pin)
	info, err := r.TokenInfo(s.Info().SlotID)
	if err != nil {
		return err
	}
	return p.note(p.latch.Attempt(pin, info, s.Login))
}

// initialise gives a token that has no user PIN the one of the PIN file.
func (p *pins) initialise(r reader, t pkcs11.TokenInfo) error {
	if p.soFile == "" {
		return blankError{fmt.Errorf("token %q has no user PIN: give --provision and --so-pin-file to initialise it", t.Serial)}
	}
	pin, err := pinlatch.ReadPIN(p.file)
	if err != nil {
		return blankError{err}
	}
	defer clear(pin)
	soPIN, err := pinlatch.ReadPIN(p.soFile)
	if err != nil {
		return blankError{err}
	}
	defer clear(soPIN)
	// The flags in the token's information are of the user's PIN.
	err = p.soLatch.Attempt(soPIN, pkcs11.TokenInfo{Serial: t.Serial}, func(soPIN []byte) error {
		if !t.Initialized {
			if err := r.InitToken(t.SlotID, soPIN, cmp.Or(t.Label, defaultTokenLabel)); err != nil {
				return err
			}
		}
		return r.InitPIN(t.SlotID, soPIN, pin)
	})
	if err = p.note(err); err != nil {
		return blankError{fmt.Errorf("token %q has no user PIN, and could not be initialised with the SO PIN: %w", t.Serial, err)}
	}
	return nil
}

func (p *pins) note(err error) error {
	var refused *pinlatch.RefusedError
	p.leave = ""
	if errors.As(err, &refused) {
		p.leave = refused.Leave
	}
	return err
}

// pinCondition is what callers are told if a PIN was not sent.
func pinCondition(err error) (c condition, ok bool) {
	var refused *pinlatch.RefusedError
	var unreadable pinFileError
	switch {
	case errors.As(err, &unreadable):
		return condition{agentv1.Reason_REASON_PIN_REJECTED, fmt.Sprintf("no PIN can be sent: %v", err)}, true
	case !errors.As(err, &refused):
		return condition{}, false
	case refused.Reason == pinlatch.ReasonLocked, refused.Reason == pinlatch.ReasonFinalTry:
		return condition{agentv1.Reason_REASON_PIN_LOCKED, err.Error()}, true
	}
	return condition{agentv1.Reason_REASON_PIN_REJECTED, err.Error()}, true
}
