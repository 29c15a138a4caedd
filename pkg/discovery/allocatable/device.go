// SPDX-License-Identifier: Apache-2.0

// Package allocatable knows the tokens of a node that pods can be given. It owns how long
// a token stays known that cannot be used any more. It never scans the node, and talks
// neither to kubelet nor to Kubernetes.
package allocatable

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/discovery/sysfs"
)

// Scan is what a scan of the node has found.
type Scan struct {
	// Tokens are those that can be used. No two have the same serial number.
	Tokens []Token
	// HSMDevices are all that exist.
	HSMDevices map[types.NamespacedName]HSMDevice
	// Time is when the node was scanned, in whole seconds.
	Time time.Time
}

// Token is a token that can be used.
type Token struct {
	sysfs.Device
	// HSMDevice is the one that it belongs to, DeviceType that of the HSMDevice.
	HSMDevice  types.NamespacedName
	DeviceType v1alpha1.DeviceType
}

// HSMDevice is what a scan says about an HSMDevice as a whole.
type HSMDevice struct {
	// Unknown is true if its tokens could not be looked for. That one was not found then
	// means nothing.
	Unknown bool
	// GracePeriod is that of the HSMPool to which it belongs.
	GracePeriod time.Duration
}

// Device is a token as it is offered to pods.
type Device struct {
	// Name is attribute.DeviceName of the serial number.
	Name string
	// Attributes are values by the names of the package attribute.
	Attributes map[string]string
	// Path is the device file on the node. Empty if the token cannot be used, or this
	// process has not seen it yet.
	Path string
	// Lost is when the token became unusable, in whole seconds; zero while it is usable.
	Lost time.Time
}

// device is what is offered of a token.
func (t Token) device() Device {
	device := Device{
		Name: attribute.DeviceName(t.Serial),
		Path: t.Path,
		Attributes: map[string]string{
			attribute.Serial:     attribute.Value(t.Serial),
			attribute.HSMDevice:  attribute.HSMDeviceValue(t.HSMDevice),
			attribute.DeviceType: string(t.DeviceType),
		},
	}
	if t.VendorID != "" {
		device.Attributes[attribute.Vendor] = t.VendorID
		device.Attributes[attribute.Product] = t.ProductID
		device.Attributes[attribute.USBPath] = attribute.Value(t.Name)
	}
	if release := t.Release; release != "" {
		device.Attributes[attribute.Firmware] = attribute.Release(release)
	}
	return device
}
