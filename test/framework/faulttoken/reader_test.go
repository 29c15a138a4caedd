// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"strings"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
)

func TestSerials(t *testing.T) {
	t.Parallel()
	fact(t, "all tokens that OpenSC initialised call themselves ESPICOHSMTR")
	fact(t, "slotDescription holds 64 bytes of the reader's name, and the USB serial ends at byte 66: it is cut")
	const serial = "E6614C311B4FC726"
	for _, p := range FieldProfiles {
		tok := New(p)
		tok.SetReader(Reader{USBSerial: serial})
		info := tok.Info()
		if info.Serial != "ESPICOHSMTR" {
			t.Errorf("%s: serial %q", p.Name, info.Serial)
		}
		if len(info.Reader) != 64 || strings.Contains(info.Reader, serial) || !strings.HasSuffix(info.Reader, "("+serial[:15]) {
			t.Errorf("%s: the slot is described as %q", p.Name, info.Reader)
		}
		for other, want := range map[string]bool{serial: true, "E6614C311B4FC7F6": false, "E6614C311B4F": false} {
			if (pkcs11.Selector{Serial: other}).Matches(info) != want {
				t.Errorf("%s: that the part of the serial number matches %s is %v", p.Name, other, !want)
			}
		}
	}
	fact(t, "PC/SC gives the whole name of the reader")
	if name := (Reader{USBSerial: serial}).Name(); !strings.Contains(name, "("+serial+")") || strings.Index(name, serial)+len(serial) != 65 {
		t.Errorf("the reader is called %q", name)
	}
}

func TestReadersThatShowNothing(t *testing.T) {
	t.Parallel()
	for line, r := range map[string]Reader{
		"libccid before 1.8 does not know 2e8a:10fd":                   {UnknownToDriver: true},
		"pcscd refuses clients in containers, unless --disable-polkit": {Polkit: true},
	} {
		fact(t, line)
		tok := New(PicoNext)
		tok.SetReader(r)
		if _, err := tok.OpenSession(); code(err) != pkcs11.CKRTokenNotPresent || tok.Present() {
			t.Errorf("%+v: %v", r, err)
		}
		tok.SetReader(Reader{})
		open(t, tok)
	}
}
