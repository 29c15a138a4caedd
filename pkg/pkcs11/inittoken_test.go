// SPDX-License-Identifier: Apache-2.0

package pkcs11

import "testing"

// TestReaderHas: the reader's name is cut at 64 bytes, and the serial number with it.
func TestReaderHas(t *testing.T) {
	t.Parallel()
	const cut = "Nitrokey Nitrokey HSM [Pico Key CCID Interface] (E6614C311B4FC72"
	if len(cut) != slotDescriptionBytes {
		t.Fatalf("the name has %d bytes", len(cut))
	}
	for _, c := range []struct {
		reader, serial string
		want           bool
	}{
		{cut, "E6614C311B4FC726", true},
		{cut, "E6614C311B4FC727", true}, // The cut does not tell them apart: Find then says ambiguous.
		{cut, "E6614C311B4FC7", false},
		{cut, "E7614C311B4FC726", false},
		{cut, "", false},
		{"Nitrokey Nitrokey HSM of another maker [Pico Key CCID Int] (E661", "E6614C311B4FC726", false}, // Too little is left.
		{"Pico (E6614C311B4FC726) 00 00", "E6614C311B4FC726", true},
		{"Pico (E6614C31", "E6614C311B4FC726", false},
		{"A reader whose name has sixty-four bytes, the last three are: (E6", "E6614C311B4FC726", false},
	} {
		if got := readerHas(c.reader, c.serial); got != c.want {
			t.Errorf("reader %q has %q: %v", c.reader, c.serial, got)
		}
	}
}

// TestLabelUse: nothing but SoftHSM gets a label, and OpenSC NULL.
func TestLabelUse(t *testing.T) {
	t.Parallel()
	for manufacturer, want := range map[string]labelUse{
		"OpenSC Project                  ": labelHarms, "SoftHSM                         ": labelSet,
		"PKCS#11 Kit                     ": labelUnknown, "": labelUnknown,
	} {
		if got := labelUseOf(manufacturer); got != want {
			t.Errorf("of %q: %v", manufacturer, got)
		}
	}
}
