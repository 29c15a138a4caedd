// SPDX-License-Identifier: Apache-2.0

package sysfs

import "encoding/binary"

// Of the CCID class descriptor (USB CCID specification 1.1, 5.1).
const (
	ccidDescriptorType   = 0x21
	ccidDescriptorLength = 0x36
	ccidFeatures         = 40 // The offset of dwFeatures.
	ccidLevels           = 0x00070000
	ccidShortAPDU        = 0x00020000
)

// shortAPDUs reports whether a device is a smart card reader that takes APDUs, but only
// short ones. Its descriptors are those of the device and its configurations, each after
// the other, as sysfs and the USB device file give them.
func shortAPDUs(descriptors []byte) bool {
	for len(descriptors) >= 2 {
		length := int(descriptors[0])
		if length < 2 || length > len(descriptors) {
			return false
		}
		if descriptors[1] == ccidDescriptorType && length == ccidDescriptorLength {
			return binary.LittleEndian.Uint32(descriptors[ccidFeatures:])&ccidLevels == ccidShortAPDU
		}
		descriptors = descriptors[length:]
	}
	return false
}
