// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	m := &cardModule{faultModule: &faultModule{token: faulttoken.NewBlank(faulttoken.SmartCardHSM)}, fail: &pkcs11.Error{Op: "C_InitPIN", Code: pkcs11.CKRDeviceRemoved}}
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

// A token as it comes from the factory says nothing of itself: it has no serial number
// and names no manufacturer. It is formatted, gets its PIN, and a store, and the profile
// is that of what it is then.
func TestTokenFromTheFactory(t *testing.T) {
	t.Parallel()
	for _, p := range faulttoken.FieldProfiles {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			h := run(t, faulttoken.NewBlank(p), func(o *Options) { writeSOPIN(t, o) })
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			h.commit(put("a", 0, "x"))
			if got := h.status(); !strings.HasPrefix(got.GetCapacity().GetProfile(), "pico") || got.GetSerial() != "ESPICOHSMTR" {
				t.Errorf("status is %v", got)
			}
			if h.module.inits != 1 {
				t.Errorf("the PIN was set %d times", h.module.inits)
			}
		})
	}
}

// What kind of token it is was found out once, and outlives a restart.
func TestKeptProfile(t *testing.T) {
	t.Parallel()
	o, _ := testOptions(t)
	says := pkcs11.TokenInfo{Manufacturer: "Pol Henarejos"}
	begin := func() *identity {
		i, err := newIdentity(o, &revisions{})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	for _, c := range []struct{ found, want string }{{"pico", ""}, {"smartcard-hsm", "smartcard-hsm"}, {"smartcard-hsm", "smartcard-hsm"}} {
		if err := begin().keepProfile(c.found, says); err != nil {
			t.Fatal(err)
		}
		if got := begin().options().Profile.Name; got != c.want {
			t.Errorf("after %q was found the profile is %q, want %q", c.found, got, c.want)
		}
	}
	if err := os.WriteFile(filepath.Join(o.StateDir, profileFile), []byte("no such"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newIdentity(o, &revisions{}); err == nil {
		t.Error("a profile that does not exist is taken")
	}
}

// A token without a user PIN that holds something is not formatted.
func TestFormattingThatWouldDestroy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, told string
		put        func(*faulttoken.Token)
	}{
		{"data", "of somebody", func(f *faulttoken.Token) {
			f.Put(faulttoken.Object{Label: "of somebody", Application: "other", Value: []byte("x")})
		}},
		{"certificates", "3 keys and certificates", func(f *faulttoken.Token) { f.PutCertificates(3) }},
		{"nobody knows what", "is not known", func(f *faulttoken.Token) {
			f.Fail(faulttoken.FindKeys, faulttoken.Fault{Code: pkcs11.CKRGeneralError})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := faulttoken.NewBlank(faulttoken.Pico66With1M)
			c.put(f)
			before := len(f.Flash())
			h := run(t, f, func(o *Options) { writeSOPIN(t, o) })
			h.await(agentv1.Reason_REASON_TOKEN_UNINITIALIZED)
			if message := h.status().GetMessage(); !strings.Contains(message, c.told) {
				t.Errorf("message is %q", message)
			}
			if len(f.Flash()) != before || h.module.inits != 0 {
				t.Error("the token was changed")
			}
		})
	}
}

func writeSOPIN(t *testing.T, o *Options) {
	t.Helper()
	o.SOPINFile = filepath.Join(t.TempDir(), "so-pin")
	if err := os.WriteFile(o.SOPINFile, []byte(faulttoken.SOPIN), 0o600); err != nil {
		t.Fatal(err)
	}
}
