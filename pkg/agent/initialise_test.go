// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/faulttoken"
)

// cardModule has a token in it as OpenSC shows a SmartCard-HSM.
type cardModule struct {
	*faultModule
	calls []string
	fail  error // Of the next InitPIN.
}

func (r *cardModule) InitToken(_ uint, soPIN []byte, label string) error {
	r.calls = append(r.calls, fmt.Sprintf("InitToken %s %s", soPIN, label))
	return nil
}

func (r *cardModule) InitPIN(_ uint, soPIN, pin []byte, justFormatted bool) error {
	r.calls = append(r.calls, fmt.Sprintf("InitPIN %s %s %t", soPIN, pin, justFormatted))
	err := r.fail
	r.fail = nil
	return err
}

// A card is formatted before it gets its PIN. If that is ended in the middle, it
// has the beginning of the SO PIN as its PIN, and gets its own when a person has
// allowed the SO PIN to be sent again; it is not formatted twice.
func TestInitialiseCard(t *testing.T) {
	t.Parallel()
	o, _ := testOptions(t)
	o.SOPINFile = filepath.Join(t.TempDir(), "so-pin")
	if err := os.WriteFile(o.SOPINFile, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	blank := pkcs11.TokenInfo{Serial: "CARD", Manufacturer: "www.CardContact.de", Model: "PKCS#15 emulated", Initialized: true}
	m := &cardModule{fail: &pkcs11.Error{Op: "C_InitPIN", Code: pkcs11.CKRDeviceRemoved}}
	attempt := func(t2 pkcs11.TokenInfo) error {
		p, err := newPINs(o, m, newState(starting)) // A restart.
		if err != nil {
			t.Fatal(err)
		}
		if t2.UserPINInitialized && !p.isFormatting() {
			t.Fatal("the agent does not know that it has begun to format the token")
		}
		return p.initialise(t2)
	}
	if err := attempt(blank); conditionOf(err).reason != agentv1.Reason_REASON_TOKEN_UNINITIALIZED {
		t.Errorf("the first attempt: %v", err)
	}
	if err := os.WriteFile(filepath.Join(o.StateDir, soLatchDir, "allow-login"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	formatted := blank
	formatted.UserPINInitialized = true
	if err := attempt(formatted); err != nil {
		t.Errorf("the second attempt: %v", err)
	}
	want := []string{
		"InitToken 0123456789abcdef hsm.j5t.io",
		"InitPIN 0123456789abcdef " + faulttoken.PIN + " true",
		"InitPIN 0123456789abcdef " + faulttoken.PIN + " true",
	}
	if !slices.Equal(m.calls, want) {
		t.Errorf("calls: %q, want %q", m.calls, want)
	}
	if _, err := os.Stat(filepath.Join(o.StateDir, formattingFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note stays: %v", err)
	}
}
