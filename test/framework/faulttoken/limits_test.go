// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"fmt"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
)

// fillUp creates objects until there is an error.
func fillUp(s *Session) (created int, err error) {
	for ; ; created++ {
		if _, err = s.Create(fmt.Sprint(created), "app", []byte{1}); err != nil {
			return created, err
		}
	}
}

func TestCreatesAndVisibleObjects(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		fact                string
		p                   Profile
		pairs, certificates int
		creates, visible    int
		code                uint
	}{
		{"6.6: 128 creates, then CKR_GENERAL_ERROR; a fresh process sees 126", Pico66With1M, 0, 0, 128, 126, pkcs11.CKRGeneralError},
		{"6.6: a key pair takes the places of two objects, and three files", Pico66With1M, 1, 0, 126, 124, pkcs11.CKRGeneralError},
		{"next: 256 creates return CKR_OK, then 0x31; a fresh process sees 126", PicoNext, 0, 0, 256, 126, pkcs11.CKRDeviceMemory},
		{"next: certificates take the places of objects", PicoNext, 1, 2, 256, 122, pkcs11.CKRDeviceMemory},
		{"SmartCard-HSM: 256 creates, 126 visible", SmartCardHSM, 1, 0, 256, 126, pkcs11.CKRDeviceMemory},
		{"YubiHSM 2: 256 objects", YubiHSM, 0, 0, 256, 256, pkcs11.CKRDeviceMemory},
	} {
		t.Run(row.fact, func(t *testing.T) {
			t.Parallel()
			fact(t, row.fact)
			tok := New(row.p)
			for i := range row.pairs {
				if _, err := open(t, tok).GenerateKeyPair(fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
			tok.PutCertificates(row.certificates)
			s := open(t, tok)
			created, err := fillUp(s)
			if created != row.creates || code(err) != row.code {
				t.Errorf("%d creates, then %v", created, err)
			}
			if _, err := s.Random(1); err != nil {
				t.Errorf("the full token does not answer: %v", err)
			}
			fresh := open(t, tok)
			if got := len(list(t, fresh)); got != row.visible {
				t.Errorf("a fresh process sees %d", got)
			}
			// What was invisible shows when there is room in the list.
			if row.creates > row.visible {
				for _, o := range list(t, fresh)[:2] {
					if err := fresh.Destroy(o.Handle); err != nil {
						t.Fatal(err)
					}
				}
				if got := len(list(t, open(t, tok))); got != min(row.visible, row.creates-2) {
					t.Errorf("after two destroys a fresh process sees %d", got)
				}
			}
		})
	}
}

func TestLargestObject(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		fact               string
		p                  Profile
		largest, truncated int
	}{
		{"6.6: the largest object has 4032 bytes, a larger one gets CKR_GENERAL_ERROR", Pico66With3M, 4032, 0},
		{"next: 32768 bytes return CKR_OK and read back as 1024 in a fresh process", PicoNext, 32767, 1024},
		{"SmartCard-HSM: 1.2 KB a write", SmartCardHSM, 1216, 0},
		{"YubiHSM 2: 1.9 KB", YubiHSM, 1900, 0},
		{"SoftHSM: 16 MiB", SoftHSM, 16 << 20, 0},
	} {
		t.Run(row.fact, func(t *testing.T) {
			t.Parallel()
			fact(t, row.fact)
			tok := New(row.p)
			s := open(t, tok)
			create(t, s, "largest", row.largest)
			h, err := s.Create("larger", "app", make([]byte, row.largest+1))
			if row.truncated == 0 {
				if code(err) != pkcs11.CKRGeneralError {
					t.Errorf("one byte more gave %v", err)
				}
				return
			}
			if value, readErr := s.Value(h); err != nil || readErr != nil || len(value) != row.largest+1 {
				t.Errorf("one byte more gave %v, and the process reads %d bytes, %v", err, len(value), readErr)
			}
			if value, err := open(t, tok).valueOf("larger"); err != nil || len(value) != row.truncated {
				t.Errorf("a fresh process reads %d bytes, %v", len(value), err)
			}
		})
	}
}

func TestEmptyValueOnPico(t *testing.T) {
	t.Parallel()
	fact(t, "an empty value gets CKR_ARGUMENTS_BAD")
	for _, p := range FieldProfiles {
		if _, err := open(t, New(p)).Create("empty", "app", nil); code(err) != pkcs11.CKRArgumentsBad {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

func TestNamesOnPico(t *testing.T) {
	t.Parallel()
	fact(t, "labels of 64 and applications of 32 bytes are safe; from 250 bytes the object is gone after a reopen")
	for _, p := range FieldProfiles {
		for _, row := range []struct{ label, application, seen int }{{64, 32, 1}, {250, 1, 0}, {1, 250, 0}} {
			tok := New(p)
			if _, err := open(t, tok).Create(strings.Repeat("l", row.label), strings.Repeat("a", row.application), []byte{1}); err != nil {
				t.Error(err)
			}
			if got := len(list(t, open(t, tok))); got != row.seen {
				t.Errorf("%s: %+v: a fresh process sees %d", p.Name, row, got)
			}
		}
	}
}

func TestEmbeddedHasNoDataObjects(t *testing.T) {
	t.Parallel()
	fact(t, "libsc-hsm-pkcs11.so: CKR_TEMPLATE_INCONSISTENT")
	if _, err := open(t, New(Embedded)).Create("a", "app", []byte{1}); code(err) != ckrTemplateInconsistent {
		t.Error(err)
	}
}

func TestTotalBytesOfSmartCardHSM(t *testing.T) {
	t.Parallel()
	fact(t, "SmartCard-HSM: 76 KB in all")
	s := open(t, New(SmartCardHSM))
	for i := range (76 << 10) / 1000 {
		create(t, s, fmt.Sprint(i), 1000)
	}
	if _, err := s.Create("one more", "app", make([]byte, 1000)); code(err) != pkcs11.CKRDeviceMemory {
		t.Error(err)
	}
}
