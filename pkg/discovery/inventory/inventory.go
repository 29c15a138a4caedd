// SPDX-License-Identifier: Apache-2.0

// Package inventory is the tokens of a node that pods can be given. It owns how long a
// token is remembered that cannot be used any more. It never looks at the node, and
// talks neither to kubelet nor to Kubernetes.
package inventory

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/discovery/sysfs"
)

// Found is what a look at the node has found.
type Found struct {
	// Tokens are those that can be used. No two have the same serial number.
	Tokens []Token
	// HSMDevices are all that there are.
	HSMDevices map[types.NamespacedName]HSMDevice
	// Time is when the node was looked at, in whole seconds.
	Time time.Time
}

// Token is a token that can be used.
type Token struct {
	sysfs.Device
	// HSMDevice is to which it belongs, DeviceType what that says of it.
	HSMDevice  types.NamespacedName
	DeviceType v1alpha1.DeviceType
}

// HSMDevice is what a look says of an HSMDevice as a whole.
type HSMDevice struct {
	// Unknown is true if its tokens could not be looked for: that one was not found means
	// nothing.
	Unknown bool
	// GracePeriod is that of the HSMPool to which it belongs.
	GracePeriod time.Duration
}

// Device is a token as pods are offered it.
type Device struct {
	// Name is attribute.DeviceName of the serial number.
	Name string
	// Attributes are values by the names of the package attribute.
	Attributes map[string]string
	// Path is the device file on the node. Empty if the token cannot be used, or was not
	// seen yet by this process.
	Path string
	// Lost is since when the token cannot be used, in whole seconds; zero while it can.
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
