// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"strings"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
)

func TestInitToken(t *testing.T) {
	t.Parallel()
	empty, blanks, label := "", strings.Repeat(" ", 32), "my-token"
	for _, row := range []struct {
		fact              string
		label             *string
		code              uint
		formats, survives bool
	}{
		{"C_InitToken with a NULL label returns CKR_OK and is safe", nil, 0, true, true},
		{"C_InitToken with an empty label answers CKR_GENERAL_ERROR but formats", &empty, pkcs11.CKRGeneralError, true, true},
		{"C_InitToken with a label of blanks does the same", &blanks, pkcs11.CKRGeneralError, true, true},
		{"C_InitToken with a label kills the firmware", &label, pkcs11.CKRGeneralError, false, false},
	} {
		t.Run(row.fact, func(t *testing.T) {
			t.Parallel()
			fact(t, row.fact)
			for _, p := range FieldProfiles {
				tok := NewBlank(p)
				if err := tok.InitToken(SOPIN, row.label); code(err) != row.code {
					t.Errorf("%s: %v", p.Name, err)
				}
				if tok.Present() != row.survives {
					t.Errorf("%s: the token is there: %v", p.Name, tok.Present())
				}
				if row.formats && !tok.Info().UserPINInitialized {
					t.Errorf("%s: it is not formatted", p.Name)
				}
				tok.Remove()
				tok.Insert()
				if _, err := tok.OpenSession(); (err == nil) != row.survives {
					t.Errorf("%s: after a restart: %v", p.Name, err)
				}
			}
		})
	}
	t.Run("SoftHSM", func(t *testing.T) {
		t.Parallel()
		fact(t, "other tokens take a label")
		if err := NewBlank(SoftHSM).InitToken(SOPIN, &label); err != nil {
			t.Error(err)
		}
	})
}

func TestBlankToken(t *testing.T) {
	t.Parallel()
	fact(t, "a blank token names no manufacturer")
	fact(t, "a freshly flashed Pico says CKF_TOKEN_INITIALIZED, but not CKF_USER_PIN_INITIALIZED")
	fact(t, "every Pico has the same label")
	for _, p := range FieldProfiles {
		tok := NewBlank(p)
		if info := tok.Info(); info.Manufacturer != "" || !info.Initialized || info.UserPINInitialized {
			t.Errorf("%s: a blank token says %+v", p.Name, info)
		}
		if err := tok.InitToken(SOPIN, nil); err != nil {
			t.Fatal(err)
		}
		if err := tok.InitPIN(SOPIN, PIN); err != nil {
			t.Fatal(err)
		}
		if info := tok.Info(); info.Manufacturer != "Pol Henarejos" || !info.UserPINInitialized || info.Label != "Pico-HSM (UserPIN)" {
			t.Errorf("%s: it says %+v", p.Name, info)
		}
		create(t, open(t, tok), "a", 1)
	}
}
