// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/pinlatch"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

const (
	// soLatchDir lies in the state directory. Tokens count the wrong PINs of
	// their security officer by themselves.
	soLatchDir = "so-pin"
)

// pins are the PINs that the agent may send, and the latches before them. A PIN
// is read from its file for each login and zeroed after it.
//
// Another PIN is given to the token by way of two files: whoever wants it writes
// it to newFile, and later, when the agent says that it was made, to file. So
// there is no time at which only the agent, or only the token, knows the PIN.
type pins struct {
	file, newFile, soFile string
	dir                   string        // The state directory.
	profile               token.Profile // Zero: by what the token says of itself.
	module                module
	latch, soLatch        *pinlatch.Latch
	state                 *state
	seed                  maphash.Seed
	attempted             uint64 // Hash of all files at the last attempt.
	inUse                 uint64 // Hash of the PIN that the token has.
	given                 uint64 // Hash of the PIN that it was last to get.
	refusal               pinState
	permission            string // Path by which a person may allow another login; empty: none is needed.
}

// pinState is what callers are told of the PIN.
type pinState struct {
	state   agentv1.PINState
	message string
}

// uninitialisedError is of a token without a user PIN that was not initialised.
type uninitialisedError struct{ error }

func (e uninitialisedError) Unwrap() error { return e.error }

// pinFileError is of a PIN file that has become unreadable.
type pinFileError struct{ error }

func (e pinFileError) Unwrap() error { return e.error }

func newPINs(o Options, m module, state *state) (*pins, error) {
	soDir := filepath.Join(o.StateDir, soLatchDir)
	if err := os.MkdirAll(soDir, 0o700); err != nil {
		return nil, fmt.Errorf("use the state directory: %w", err)
	}
	p := &pins{
		file:    o.PINFile,
		newFile: o.NewPINFile,
		dir:     o.StateDir,
		profile: o.Profile,
		module:  m,
		state:   state,
		latch:   pinlatch.New(o.StateDir, atomicfile.OS{}),
		soLatch: pinlatch.New(soDir, atomicfile.OS{}),
		seed:    maphash.MakeSeed(),
	}
	if o.Provision {
		p.soFile = o.SOPINFile // It need not exist yet.
	}
	pin, err := pinlatch.ReadPIN(o.PINFile)
	if err != nil {
		return nil, err
	}
	clear(pin)
	return p, nil
}

// changed reports whether a person has changed the PIN since the last attempt, or
// has allowed another one.
func (p *pins) changed() bool {
	if p.permission != "" {
		if _, err := os.Stat(p.permission); err == nil {
			return true
		}
	}
	hash, err := p.hashFiles()
	return err == nil && hash != p.attempted
}

// hashFiles gives the hash of all files.
func (p *pins) hashFiles() (uint64, error) {
	pin, next, err := p.read()
	if err != nil {
		return 0, err
	}
	defer clear(pin)
	defer clear(next)
	var soPIN []byte
	if p.soFile != "" {
		soPIN, _ = pinlatch.ReadPIN(p.soFile) // One that cannot be used is none.
		defer clear(soPIN)
	}
	return p.hash(pin, next, soPIN), nil
}

// read gives the PIN, and the one that the token is to get; nil is none.
func (p *pins) read() (pin, next []byte, err error) {
	if pin, err = pinlatch.ReadPIN(p.file); err != nil || p.newFile == "" {
		return pin, nil, err
	}
	next, err = pinlatch.ReadPIN(p.newFile)
	if errors.Is(err, fs.ErrNotExist) {
		return pin, nil, nil
	}
	if err != nil {
		clear(pin)
		return nil, nil, err
	}
	return pin, next, nil
}

func (p *pins) hash(pins ...[]byte) uint64 {
	var h maphash.Hash
	h.SetSeed(p.seed)
	for _, pin := range pins {
		_, _ = h.Write(pin) // Never fails.
		_ = h.WriteByte(0)  // No PIN holds it.
	}
	return h.Sum64()
}

// login logs in, unless the PIN is one that must not be sent.
func (p *pins) login(s session) error {
	pin, next, err := p.read()
	if err != nil {
		return pinFileError{err}
	}
	defer clear(pin)
	defer clear(next)
	if p.attempted, err = p.hashFiles(); err != nil {
		return pinFileError{err}
	}
	info := func() (pkcs11.TokenInfo, error) { return p.module.TokenInfo(s.Info().SlotID) }
	sent, err := p.latch.Login(pin, next, info, s.Login)
	if p.note(err) != nil {
		switch c := conditionOf(err); c.reason {
		case agentv1.Reason_REASON_PIN_REJECTED:
			p.state.setPIN(pinState{agentv1.PINState_PIN_STATE_REJECTED, c.message})
		case agentv1.Reason_REASON_PIN_LOCKED:
			p.state.setPIN(pinState{agentv1.PINState_PIN_STATE_LOCKED, c.message})
		}
		return err
	}
	p.inUse = p.hash(sent)
	return p.follow(s)
}

// follow gives the token of a session that is logged in the PIN of the new PIN
// file, if there is one that it has not got.
func (p *pins) follow(s session) error {
	pin, next, err := p.read()
	if err != nil {
		p.state.setPIN(pinState{agentv1.PINState_PIN_STATE_ACCEPTED, fmt.Sprintf("the PIN in use is right, but: %v", err)})
		return nil
	}
	defer clear(pin)
	defer clear(next)
	switch {
	case p.hash(pin) != p.inUse && p.hash(next) == p.inUse:
		p.state.setPIN(pinState{agentv1.PINState_PIN_STATE_CHANGED, fmt.Sprintf("the token has the PIN of %s: write it to %s", p.newFile, p.file)})
		return nil
	case p.hash(pin) != p.inUse:
		p.state.setPIN(pinState{agentv1.PINState_PIN_STATE_ACCEPTED, fmt.Sprintf("%s does not hold the PIN in use any more", p.file)})
		return nil
	case next == nil, p.hash(next) == p.inUse:
		p.state.setPIN(pinState{agentv1.PINState_PIN_STATE_ACCEPTED, ""})
		return nil
	case p.hash(next) == p.given:
		p.state.setPIN(p.refusal)
		return nil
	}
	p.given = p.hash(next)
	info, err := p.module.TokenInfo(s.Info().SlotID)
	if err != nil {
		return err
	}
	err = p.latch.Change(pin, next, info, s.SetPIN)
	if err == nil {
		p.inUse = p.given
		klog.InfoS("Token has a new PIN", "serial", info.Serial)
		return p.follow(s)
	}
	klog.ErrorS(err, "The PIN was not changed", "serial", info.Serial)
	p.refusal = pinState{agentv1.PINState_PIN_STATE_CHANGE_REFUSED, fmt.Sprintf("the PIN was not changed: %v; write another one to %s, or remove it", err, p.newFile)}
	p.state.setPIN(p.refusal)
	var refused *pinlatch.RefusedError
	switch class := pkcs11.ClassOf(err); {
	case class == pkcs11.ClassPINUnfit, errors.As(err, &refused):
		return nil
	case class == pkcs11.ClassReconnect, class == pkcs11.ClassRelogin:
		p.given = 0 // To be tried again, if it was not made.
	}
	return lostError{err}
}

func (p *pins) note(err error) error {
	var refused *pinlatch.RefusedError
	p.permission = ""
	if errors.As(err, &refused) {
		p.permission = refused.PermissionFile
	}
	return err
}
