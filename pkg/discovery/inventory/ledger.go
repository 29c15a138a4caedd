// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"cmp"
	"maps"
	"slices"

	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/membership"
)

// Ledger keeps the devices of a node from one look to the next:
//
//	         found                 not found
//	(none) ────────▶ usable ──────────────────▶ lost ────────▶ (none)
//	                   ▲          found           │ grace period
//	                   └──────────────────────────┘ is over
//
// While an HSMDevice is Unknown its devices stay as they are. The zero Ledger is empty.
// It is not safe for use by several goroutines.
type Ledger struct{ devices map[string]Device }

// Recall adds what an earlier process has offered. Whether a device can be used still,
// and where it is, is for the next look to say.
func (l *Ledger) Recall(devices []Device) {
	for _, device := range devices {
		device.Path = ""
		l.put(device)
	}
}

// Update enters a look at the node.
func (l *Ledger) Update(found Found) {
	usable := map[string]bool{}
	for _, token := range found.Tokens {
		device := token.device()
		usable[device.Name] = true
		l.put(device)
	}
	hsmDevices := map[string]HSMDevice{}
	for name, hsmDevice := range found.HSMDevices {
		hsmDevices[attribute.HSMDeviceValue(name)] = hsmDevice
	}
	for name, device := range l.devices {
		hsmDevice := hsmDevices[device.Attributes[attribute.HSMDevice]]
		switch {
		case usable[name] || hsmDevice.Unknown:
		case device.Lost.IsZero():
			device.Lost, device.Path = found.Time, ""
			l.put(device)
		case found.Time.Sub(device.Lost) > cmp.Or(hsmDevice.GracePeriod, membership.DefaultGracePeriod):
			delete(l.devices, name)
		}
	}
}

// Devices returns all devices by name. They must not be changed.
func (l *Ledger) Devices() []Device {
	return slices.SortedFunc(maps.Values(l.devices), func(a, b Device) int { return cmp.Compare(a.Name, b.Name) })
}

// Device returns the device of a name.
func (l *Ledger) Device(name string) (device Device, known bool) {
	device, known = l.devices[name]
	return device, known
}

func (l *Ledger) put(device Device) {
	if l.devices == nil {
		l.devices = map[string]Device{}
	}
	l.devices[device.Name] = device
}
