// SPDX-License-Identifier: Apache-2.0

package allocatable

import (
	"cmp"
	"maps"
	"slices"

	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/membership"
)

// Tracker keeps the devices of a node from one scan to the next:
//
//	         found                 not found
//	(none) ────────▶ usable ──────────────────▶ lost ────────▶ (none)
//	                   ▲          found           │ grace period
//	                   └──────────────────────────┘ is over
//
// While an HSMDevice is Unknown its devices stay as they are. The zero Tracker is empty.
// It is not safe for use by several goroutines.
type Tracker struct{ devices map[string]Device }

// Restore adds what an earlier process has offered. The next scan says whether a device can
// still be used, and where it is.
func (t *Tracker) Restore(devices []Device) {
	for _, device := range devices {
		device.Path = ""
		t.put(device)
	}
}

// Update takes a scan of the node.
func (t *Tracker) Update(scan Scan) {
	usable := map[string]bool{}
	for _, token := range scan.Tokens {
		device := token.device()
		usable[device.Name] = true
		t.put(device)
	}
	hsmDevices := map[string]HSMDevice{}
	for name, hsmDevice := range scan.HSMDevices {
		hsmDevices[attribute.HSMDeviceValue(name)] = hsmDevice
	}
	for name, device := range t.devices {
		hsmDevice := hsmDevices[device.Attributes[attribute.HSMDevice]]
		switch {
		case usable[name] || hsmDevice.Unknown:
		case device.Lost.IsZero():
			device.Lost, device.Path = scan.Time, ""
			t.put(device)
		case scan.Time.Sub(device.Lost) > cmp.Or(hsmDevice.GracePeriod, membership.DefaultGracePeriod):
			delete(t.devices, name)
		}
	}
}

// Devices returns all devices by name. They must not be changed.
func (t *Tracker) Devices() []Device {
	return slices.SortedFunc(maps.Values(t.devices), func(a, b Device) int { return cmp.Compare(a.Name, b.Name) })
}

// Device returns the device of a name.
func (t *Tracker) Device(name string) (device Device, known bool) {
	device, known = t.devices[name]
	return device, known
}

func (t *Tracker) put(device Device) {
	if t.devices == nil {
		t.devices = map[string]Device{}
	}
	t.devices[device.Name] = device
}
