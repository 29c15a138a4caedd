// SPDX-License-Identifier: Apache-2.0

package known_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/known"
	"j5t.io/hsm/pkg/discovery/sysfs"
)

func newTable(t *testing.T) *known.Table {
	t.Helper()
	table, err := known.New()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestTable(t *testing.T) {
	t.Parallel()
	id := regexp.MustCompile(`^[0-9a-f]{4}$`)
	for _, row := range newTable(t).Rows() {
		if row.Name == "" || !id.MatchString(row.VendorID) || !id.MatchString(row.ProductID) ||
			row.DeviceType != v1alpha1.DeviceTypePicoHSM && row.DeviceType != v1alpha1.DeviceTypeSmartCardHSM {
			t.Errorf("bad row: %+v", row)
		}
	}
}

func TestIs(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	if err := table.AddReaders("/no/such/file", writePlist(t, plist)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		vendor, product, text      string
		pico, smartCardHSM, reader bool
	}{
		"Pico HSM":                       {"2e8a", "10fd", "Pico Key", true, false, true},
		"Pico HSM as Nitrokey HSM":       {"20a0", "4230", "Pico Key", true, false, true},
		"Nitrokey HSM":                   {"20a0", "4230", "Nitrokey HSM", false, true, true},
		"either, without product string": {"20a0", "4230", "", true, true, true},
		"SmartCard-HSM":                  {"04e6", "5816", "", false, true, true},
		"a reader of the list":           {"08e6", "3437", "USB SmartCard Reader", false, false, true},
		"a reader in upper case":         {"076b", "3a21", "", false, false, true},
		"a mixture of two readers":       {"08e6", "3a21", "", false, false, false},
		"a Pico without firmware":        {"2e8a", "0003", "RP2 Boot", false, false, false},
		"not USB":                        {"", "", "", false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			device := sysfs.Device{VendorID: test.vendor, ProductID: test.product, Product: test.text}
			for deviceType, want := range map[v1alpha1.DeviceType]bool{
				v1alpha1.DeviceTypePicoHSM:      test.pico,
				v1alpha1.DeviceTypeSmartCardHSM: test.smartCardHSM,
				v1alpha1.DeviceTypeGeneric:      test.reader,
				"":                              false,
			} {
				if got := table.Is(deviceType, device); got != want {
					t.Errorf("is %q: %v", deviceType, got)
				}
			}
		})
	}
}

// plist has the form of libccid's file.
const plist = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>CFBundleName</key>
	<string>CCIDCLASSDRIVER</string>
	<!-- Possible values for ifdDriverOptions -->
	<key>ifdVendorID</key>
	<array>
		<string>0x08E6</string>
		<string>0x076B</string>
	</array>
	<key>ifdProductID</key>
	<array>
		<string>0x3437</string>
		<string> 0x3A21 </string>
	</array>
	<key>ifdFriendlyName</key>
	<array>
		<string>Gemalto PC Twin Reader</string>
		<string>OMNIKEY AG CardMan 3021 &amp; 3121</string>
	</array>
	<key>Copyright</key>
	<string>x</string>
</dict>
</plist>
`

func writePlist(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Info.plist")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAddReaders(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		content string
		readers int
		err     string
	}{
		"good":               {plist, 2, ""},
		"empty":              {"", 0, "0 ifdVendorID"},
		"not XML":            {"<<<", 0, "not an XML property list"},
		"cut":                {plist[:len(plist)/2], 0, "not an XML property list"},
		"a product too few":  {strings.Replace(plist, "<string>0x3437</string>", "", 1), 0, "2 ifdVendorID and 1 ifdProductID"},
		"an id of five":      {strings.Replace(plist, "0x3437", "0x34377", 1), 0, "is not a USB id"},
		"an id without 0x":   {strings.Replace(plist, "0x3437", "3437", 1), 0, "is not a USB id"},
		"nothing but a dict": {"<plist><dict/></plist>", 0, "0 ifdVendorID"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table := newTable(t)
			err := table.AddReaders(writePlist(t, test.content))
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got error %v, want %q", err, test.err)
			}
			if table.Readers() != test.readers {
				t.Errorf("got %d readers, want %d", table.Readers(), test.readers)
			}
		})
	}
	table := newTable(t)
	if err := table.AddReaders("/no/such/file"); err != nil || table.Readers() != 0 {
		t.Errorf("no list: %d readers, %v", table.Readers(), err)
	}
	if err := table.AddReaders(t.TempDir()); err == nil {
		t.Error("no error for a folder")
	}
}
