// SPDX-License-Identifier: Apache-2.0

package known

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// CCIDLists are the usual places of libccid's Info.plist, on the node where it is
// mounted below /host, and in the container.
func CCIDLists() []string {
	var lists []string
	for _, root := range []string{"/host", ""} {
		for _, file := range []string{
			"/etc/libccid_Info.plist",
			"/usr/lib/pcsc/drivers/ifd-ccid.bundle/Contents/Info.plist",
			"/usr/lib64/pcsc/drivers/ifd-ccid.bundle/Contents/Info.plist",
		} {
			lists = append(lists, root+file)
		}
	}
	return lists
}

var plistID = regexp.MustCompile(`^0x[0-9a-fA-F]{4}$`)

// parseReaders reads the property list of libccid: the n-th strings of the arrays
// ifdVendorID and ifdProductID are the identity of the n-th reader.
func parseReaders(plist []byte) (map[usbID]bool, error) {
	arrays, err := readArrays(plist)
	if err != nil {
		return nil, err
	}
	vendors, products := arrays[vendorKey].strings, arrays[productKey].strings
	if len(vendors) == 0 || len(vendors) != len(products) {
		return nil, fmt.Errorf("%d ifdVendorID and %d ifdProductID; want as many of each", len(vendors), len(products))
	}
	readers := make(map[usbID]bool, len(vendors))
	for i := range vendors {
		for _, id := range []string{vendors[i], products[i]} {
			if !plistID.MatchString(id) {
				return nil, fmt.Errorf("reader %d: %+q is not a USB id such as 0x20A0", i, id)
			}
		}
		readers[usbID{strings.ToLower(vendors[i][2:]), strings.ToLower(products[i][2:])}] = true
	}
	return readers, nil
}

// The keys of the arrays that list readers.
const (
	vendorKey  = "ifdVendorID"
	productKey = "ifdProductID"
	nameKey    = "ifdFriendlyName"
)

// array is one of the arrays that list readers.
type array struct {
	strings []string
	// end is the offset of its end tag.
	end int64
}

// readArrays returns the arrays that list readers, each of which follows its key.
func readArrays(plist []byte) (map[string]*array, error) {
	arrays := map[string]*array{vendorKey: {}, productKey: {}, nameKey: {}}
	decoder := xml.NewDecoder(bytes.NewReader(plist))
	var key, text string
	for {
		before := decoder.InputOffset()
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return arrays, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not an XML property list: %w", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			text = ""
		case xml.CharData:
			text += string(token)
		case xml.EndElement:
			switch list := arrays[key]; {
			case token.Name.Local == "key":
				key = strings.TrimSpace(text)
			case list == nil:
			case token.Name.Local == "string":
				list.strings = append(list.strings, strings.TrimSpace(text))
			case token.Name.Local == "array":
				list.end = before
			}
		}
	}
}

// CompleteReaders adds to libccid's property list the identities of the table that it lacks. It
// returns the list, in which all else is as it was, and what was added.
func (t *Table) CompleteReaders(plist []byte) ([]byte, []Row, error) {
	readers, err := parseReaders(plist)
	if err != nil {
		return nil, nil, err
	}
	arrays, err := readArrays(plist)
	if err != nil {
		return nil, nil, err
	}
	if names := len(arrays[nameKey].strings); names != len(arrays[vendorKey].strings) {
		return nil, nil, fmt.Errorf("%d ifdFriendlyName and %d ifdVendorID; want as many of each", names, len(arrays[vendorKey].strings))
	}
	var added []Row
	for _, row := range t.rows {
		if id := (usbID{row.VendorID, row.ProductID}); !readers[id] {
			readers[id] = true
			added = append(added, row)
		}
	}
	insertions := map[int64]string{}
	for _, row := range added {
		insertions[arrays[vendorKey].end] += plistString("0x" + row.VendorID)
		insertions[arrays[productKey].end] += plistString("0x" + row.ProductID)
		insertions[arrays[nameKey].end] += plistString(row.Name)
	}
	var completed bytes.Buffer
	var done int64
	for _, end := range slices.Sorted(maps.Keys(insertions)) {
		completed.Write(plist[done:end])
		completed.WriteString(insertions[end])
		done = end
	}
	completed.Write(plist[done:])
	return completed.Bytes(), added, nil
}

// plistString is an element of an array.
func plistString(text string) string {
	var escaped strings.Builder
	// A strings.Builder takes everything.
	_ = xml.EscapeText(&escaped, []byte(text))
	return "\t<string>" + escaped.String() + "</string>\n\t"
}
