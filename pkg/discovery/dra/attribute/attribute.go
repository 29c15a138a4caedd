// SPDX-License-Identifier: Apache-2.0

// Package attribute owns the names of tokens in ResourceSlices and as extended resources:
// the names of their attributes, what values these have, and how a ResourceClaim selects by
// them. It never talks to Kubernetes.
package attribute

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/agentname"
)

// Driver is the name of the DRA driver, and the domain of its attributes.
const Driver = "hsm.j5t.io"

// The attributes, all of them strings. All but Serial, HSMDevice and DeviceType are
// absent where the token is not found by USB.
const (
	// Serial is the Value of the token's serial number.
	Serial = "serial"
	// HSMDevice is the Value of NAMESPACE/NAME of the HSMDevice to which the token belongs.
	HSMDevice = "hsmDevice"
	// DeviceType is the HSMDevice's spec.deviceType.
	DeviceType = "deviceType"
	// Vendor and Product are USB ids: four lower-case hexadecimal digits.
	Vendor  = "vendor"
	Product = "product"
	// Firmware is the release that the firmware states of itself in its USB device
	// descriptor, such as 8.00: bcdDevice (USB 2.0, section 9.6.1). That of a Pico HSM is
	// the version of its SDK, PICO_KEYS_SDK_VERSION (polhenarejos/pico-keys-sdk,
	// src/usb/usb_descriptors.c). What PKCS#11 says of the firmware is in the HSMPool, from
	// the agent.
	Firmware = "firmware"
	// USBPath is the place on the bus, such as 1-1.4: host controller and ports.
	USBPath = "usbPath"
)

const (
	// maxValue is the longest string that an attribute may have (resource.k8s.io
	// DeviceAttribute).
	maxValue   = 64
	hashLength = 32
)

// Value is a text as the value of an attribute: itself if it is shorter than 64 bytes,
// and otherwise 64 bytes of its beginning and a hash of all of it. Two printable ASCII
// texts never have the same value.
func Value(text string) string {
	if len(text) < maxValue {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return text[:maxValue-hashLength-1] + "-" + hex.EncodeToString(sum[:])[:hashLength]
}

// HSMDeviceValue is the value of the attribute HSMDevice.
func HSMDeviceValue(name types.NamespacedName) string { return Value(name.String()) }

// Release is bcdDevice of a USB device descriptor, four decimal digits in hexadecimal,
// as the value of the attribute Firmware: 0404 is 4.04.
func Release(bcd string) string {
	major := strings.TrimLeft(bcd[:2], "0")
	if major == "" {
		major = "0"
	}
	return major + "." + bcd[2:]
}

// DeviceName is the name of a token in its pool, which is its node's: a DNS label that
// depends on the serial number only, and so stays the same wherever it is plugged in.
func DeviceName(serial string) string { return agentname.Label(serial) }

// ResourceName is the extended resource that is this one token, by its DeviceName, where
// kubelet gives tokens to pods by a device plugin.
func ResourceName(deviceName string) string { return Driver + "/" + deviceName }

// SerialSelector is the CEL expression with which a ResourceClaim selects the token with
// a serial number, of printable ASCII characters.
func SerialSelector(serial string) string {
	// CEL and Go quote printable ASCII in the same way.
	return `device.driver == "` + Driver + `" && device.attributes["` + Driver + `"].` + Serial + " == " + strconv.Quote(Value(serial))
}
