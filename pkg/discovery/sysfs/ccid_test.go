// SPDX-License-Identifier: Apache-2.0

package sysfs_test

import (
	"slices"
	"testing"
)

// descriptors are those of a device with one configuration, with the class descriptor of a
// smart card reader of these features, as a Pico HSM has them.
func descriptors(features uint32) []byte {
	device := append([]byte{18, 1}, make([]byte, 16)...)
	configuration := append([]byte{9, 2}, make([]byte, 7)...)
	reader := append([]byte{0x36, 0x21}, make([]byte, 0x34)...)
	for i := range 4 {
		reader[40+i] = byte(features >> (8 * i))
	}
	return slices.Concat(device, configuration, []byte{9, 4, 0, 0, 3, 11, 0, 0, 0}, reader, []byte{7, 5, 0x81, 2, 64, 0, 0})
}

func TestShortAPDUs(t *testing.T) {
	t.Parallel()
	whole := descriptors(0x00020840)
	zeroLength := slices.Clone(whole)
	zeroLength[18] = 0
	// The descriptor of another class has the same number, and another length.
	otherClass := slices.Clone(whole)
	otherClass[slices.Index(otherClass, 0x36)] = 0x35
	for name, test := range map[string]struct {
		descriptors []byte
		want        bool
	}{
		"short and extended":   {descriptors(0x00040840), false},
		"short only":           {whole, true},
		"TPDU":                 {descriptors(0x00010840), false},
		"characters":           {descriptors(0x00000840), false},
		"no descriptors":       {nil, false},
		"cut":                  {whole[:len(whole)-20], false},
		"an odd byte":          {whole[:1], false},
		"of no length":         {zeroLength, false},
		"of another class":     {otherClass, false},
		"longer than the rest": {[]byte{0x36, 0x21, 1}, false},
	} {
		device := pico
		device.Descriptors = test.descriptors
		devices := usb(t, newTree(t, device).Host)
		if len(devices) != 1 || devices[0].ShortAPDUs != test.want {
			t.Errorf("%s: got %+v, want %t", name, devices, test.want)
		}
	}
}
