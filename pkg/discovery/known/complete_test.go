// SPDX-License-Identifier: Apache-2.0

package known_test

import (
	"html"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var stringElement = regexp.MustCompile(`<string>(.*?)</string>`)

// column is what the list has under a key, read in another way than ours.
func column(t *testing.T, list, key string) (column []string) {
	t.Helper()
	_, rest, found := strings.Cut(list, "<key>"+key+"</key>")
	if !found {
		t.Fatalf("the list has no %s:\n%s", key, list)
	}
	rest, _, _ = strings.Cut(rest, "</array>")
	for _, match := range stringElement.FindAllStringSubmatch(rest, -1) {
		column = append(column, html.UnescapeString(strings.TrimSpace(match[1])))
	}
	return column
}

// readersOf are the lines of the list: identity and name of each reader.
func readersOf(t *testing.T, list string) (readers []string) {
	t.Helper()
	vendors, products, names := column(t, list, "ifdVendorID"), column(t, list, "ifdProductID"), column(t, list, "ifdFriendlyName")
	if len(vendors) != len(products) || len(vendors) != len(names) {
		t.Fatalf("%d vendors, %d products, %d names", len(vendors), len(products), len(names))
	}
	for i := range vendors {
		readers = append(readers, strings.ToLower(vendors[i]+":"+products[i])+" "+names[i])
	}
	return readers
}

// TestCompleteReaders: libccid's list gets every identity of the table that it lacks, once,
// and keeps what it has.
func TestCompleteReaders(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		list string
		want []string
	}{
		"lacks all": {plist, []string{
			"0x08e6:0x3437 Gemalto PC Twin Reader", "0x076b:0x3a21 OMNIKEY AG CardMan 3021 & 3121",
			"0x2e8a:0x10fd Pico HSM", "0x20a0:0x4230 Pico HSM (as Nitrokey HSM)", "0x04e6:0x5816 SmartCard-HSM",
		}},
		"has one, in upper case": {strings.NewReplacer("0x08E6", "0x20A0", "0x3437", "0x4230").Replace(plist), []string{
			"0x20a0:0x4230 Gemalto PC Twin Reader", "0x076b:0x3a21 OMNIKEY AG CardMan 3021 & 3121",
			"0x2e8a:0x10fd Pico HSM", "0x04e6:0x5816 SmartCard-HSM",
		}},
		"a comment names one": {strings.Replace(plist, "<!-- ", "<!-- <string>0x2e8a</string> ", 1), []string{
			"0x08e6:0x3437 Gemalto PC Twin Reader", "0x076b:0x3a21 OMNIKEY AG CardMan 3021 & 3121",
			"0x2e8a:0x10fd Pico HSM", "0x20a0:0x4230 Pico HSM (as Nitrokey HSM)", "0x04e6:0x5816 SmartCard-HSM",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			completed, added, err := newTable(t).CompleteReaders([]byte(test.list))
			if err != nil {
				t.Fatal(err)
			}
			if got := readersOf(t, string(completed)); !slices.Equal(got, test.want) {
				t.Errorf("the list is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			if len(added) != len(test.want)-2 {
				t.Errorf("added %v", added)
			}
			// Without the lines that are new it is the old one.
			rest := string(completed)
			for _, row := range added {
				for _, text := range []string{"0x" + row.VendorID, "0x" + row.ProductID, row.Name} {
					rest = strings.Replace(rest, "\t<string>"+text+"</string>\n\t", "", 1)
				}
			}
			if rest != test.list {
				t.Errorf("the rest of the list has changed:\n%s", rest)
			}
			again, added, err := newTable(t).CompleteReaders(completed)
			if err != nil || len(added) > 0 || string(again) != string(completed) {
				t.Errorf("once more: added %v, error %v, same: %t", added, err, string(again) == string(completed))
			}
		})
	}
}

// TestCompletedReadersAreKnown: discovery, which reads the same list, and the table agree.
func TestCompletedReadersAreKnown(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	completed, _, err := table.CompleteReaders([]byte(plist))
	if err != nil {
		t.Fatal(err)
	}
	readers := readersOf(t, string(completed))
	for _, row := range table.Rows() {
		id := "0x" + row.VendorID + ":0x" + row.ProductID + " "
		if !slices.ContainsFunc(readers, func(reader string) bool { return strings.HasPrefix(reader, id) }) {
			t.Errorf("the list lacks %s: %s", id, row.Name)
		}
	}
	if err := table.AddReaders(writePlist(t, string(completed))); err != nil || table.Readers() != len(readers) {
		t.Errorf("discovery reads %d readers, want %d: %v", table.Readers(), len(readers), err)
	}
}

func TestCompleteReadersRefuses(t *testing.T) {
	t.Parallel()
	cut, _, _ := strings.Cut(plist, "<key>Copyright")
	for name, test := range map[string]struct{ list, err string }{
		"no list":          {"", "0 ifdVendorID"},
		"a name too few":   {strings.Replace(plist, "<string>Gemalto PC Twin Reader</string>", "", 1), "1 ifdFriendlyName and 2 ifdVendorID"},
		"a product lacks":  {strings.Replace(plist, "<string>0x3437</string>", "", 1), "2 ifdVendorID and 1 ifdProductID"},
		"cut at the names": {cut, "not an XML property list"},
	} {
		completed, added, err := newTable(t).CompleteReaders([]byte(test.list))
		if err == nil || !strings.Contains(err.Error(), test.err) || completed != nil || added != nil {
			t.Errorf("%s: got error %v, want %q", name, err, test.err)
		}
	}
}
