// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/maphash"
	"os"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
)

// defaultTokenLabel is what a token is named that is initialised without
// having been chosen by a label.
const defaultTokenLabel = "hsm.j5t.io"

// pins are the PINs that the agent may send, and to when. A PIN is read from
// its file for each login and zeroed after it.
type pins struct {
	file, soFile string
	provision    bool
	seed         maphash.Seed
	sent         uint64 // Hash of the PIN that the last attempt was about.
}

// pinError says why no login was made.
type pinError struct {
	reason agentv1.Reason
	error
}

func (e pinError) Unwrap() error { return e.error }

// blankError is of a token without a user PIN that was not to be initialised.
type blankError struct{ error }

func newPINs(o Options) (*pins, error) {
	p := &pins{file: o.PINFile, soFile: o.SOPINFile, provision: o.Provision, seed: maphash.MakeSeed()}
	files := []string{o.PINFile}
	if o.SOPINFile != "" {
		files = append(files, o.SOPINFile)
	}
	for _, file := range files {
		pin, err := readPIN(file)
		if err != nil {
			return nil, err
		}
		clear(pin)
	}
	return p, nil
}

// readPIN ignores white space around the PIN, such as a newline.
func readPIN(file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the PIN file: %w", err)
	}
	defer clear(content)
	pin := bytes.Clone(bytes.TrimSpace(content))
	if len(pin) == 0 {
		return nil, fmt.Errorf("PIN file %q is empty: write the PIN to it", file)
	}
	return pin, nil
}

// changed tells whether the file holds another PIN than at the last attempt.
func (p *pins) changed() bool {
	pin, err := readPIN(p.file)
	if err != nil {
		return false
	}
	defer clear(pin)
	return maphash.Bytes(p.seed, pin) != p.sent
}

// login logs in, unless the PIN is one that must not be sent.
func (p *pins) login(s session) error {
	pin, err := readPIN(p.file)
	if err != nil {
		return pinError{agentv1.Reason_REASON_PIN_REJECTED, err}
	}
	defer clear(pin)
	p.sent = maphash.Bytes(p.seed, pin)
	return s.Login(pin)
}

// initialise gives a blank token its user PIN.
func (p *pins) initialise(r reader, t pkcs11.TokenInfo) error {
	if !p.provision || p.soFile == "" {
		return blankError{fmt.Errorf("the token with serial %q has no user PIN: give --provision and --so-pin-file to initialise it", t.Serial)}
	}
	pin, err := readPIN(p.file)
	if err != nil {
		return blankError{err}
	}
	defer clear(pin)
	soPIN, err := readPIN(p.soFile)
	if err != nil {
		return blankError{err}
	}
	defer clear(soPIN)
	if !t.Initialized {
		if err := r.InitToken(t.SlotID, soPIN, cmp.Or(t.Label, defaultTokenLabel)); err != nil {
			return blankError{fmt.Errorf("initialising the token failed: %w", err)}
		}
	}
	if err := r.InitPIN(t.SlotID, soPIN, pin); err != nil {
		return blankError{fmt.Errorf("setting the user PIN failed: %w", err)}
	}
	return nil
}
