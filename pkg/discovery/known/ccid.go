// SPDX-License-Identifier: Apache-2.0

package known

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
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
	vendors, products, err := readArrays(xml.NewDecoder(bytes.NewReader(plist)))
	if err != nil {
		return nil, err
	}
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

// readArrays returns the strings of the two arrays, each of which follows its key.
func readArrays(decoder *xml.Decoder) (vendors, products []string, err error) {
	arrays := map[string]*[]string{"ifdVendorID": &vendors, "ifdProductID": &products}
	var key, text string
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return vendors, products, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("not an XML property list: %w", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			text = ""
		case xml.CharData:
			text += string(token)
		case xml.EndElement:
			switch array := arrays[key]; {
			case token.Name.Local == "key":
				key = strings.TrimSpace(text)
			case token.Name.Local == "string" && array != nil:
				*array = append(*array, strings.TrimSpace(text))
			}
		}
	}
}
