// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/allocatable"
	"j5t.io/hsm/pkg/discovery/known"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/discovery/sysfs"
)

// Matcher says which devices of a node belong to which HSMDevice.
type Matcher struct {
	Host  sysfs.Host
	Known *known.Table
	Node  string
}

// match is an HSMDevice and what the node has of it.
type match struct {
	hsmDevice *v1alpha1.HSMDevice
	selected  bool
	devices   []sysfs.Device
	err       error
}

// Match scans the node and returns an entry for each HSMDevice, by namespace and
// name, and the tokens that can be used. Devices that the last report had as usable keep
// their places under maxDevices.
func (m Matcher) Match(ctx context.Context, hsmDevices []*v1alpha1.HSMDevice, nodeLabels map[string]string, last []report.Entry, now metav1.Time) ([]report.Entry, []allocatable.Token) {
	usb, usbErr := m.Host.USB(ctx)
	matches := make([]match, len(hsmDevices))
	for i, hsmDevice := range hsmDevices {
		matches[i] = match{
			hsmDevice: hsmDevice,
			selected:  labels.SelectorFromSet(hsmDevice.Spec.NodeSelector).Matches(labels.Set(nodeLabels)),
		}
		if matches[i].selected {
			matches[i].devices, matches[i].err = m.find(ctx, hsmDevice.Spec, usb, usbErr)
		}
	}
	slices.SortFunc(matches, precedence)

	serials := countSerials(matches)
	takenBy := map[string]*v1alpha1.HSMDevice{}
	entries := make([]report.Entry, len(matches))
	var tokens []allocatable.Token
	for i, match := range matches {
		entries[i] = m.entry(match, takenBy, serials, last, now)
		tokens = append(tokens, usableTokens(match, entries[i])...)
	}
	slices.SortFunc(entries, func(a, b report.Entry) int {
		return cmp.Or(cmp.Compare(a.HSMDeviceNamespace, b.HSMDeviceNamespace), cmp.Compare(a.HSMDeviceName, b.HSMDeviceName))
	})
	return entries, tokens
}

// countSerials counts the devices with each serial number, in all matches together.
func countSerials(matches []match) map[string]int {
	counts := map[string]int{}
	seen := map[string]bool{}
	for _, match := range matches {
		for _, device := range match.devices {
			if !seen[device.Name] {
				seen[device.Name] = true
				counts[device.Serial]++
			}
		}
	}
	return counts
}

// usableTokens returns the tokens that an entry reports as usable.
func usableTokens(match match, entry report.Entry) []allocatable.Token {
	if match.err != nil {
		return nil // Those of the last report, of which nothing is known now.
	}
	usable := map[string]bool{}
	for _, device := range entry.DiscoveredDevices {
		if device.Reason == "" {
			usable[device.SerialNumber] = true
		}
	}
	var tokens []allocatable.Token
	for _, device := range match.devices {
		if usable[device.Serial] {
			tokens = append(tokens, allocatable.Token{
				Device:     device,
				HSMDevice:  types.NamespacedName{Namespace: match.hsmDevice.Namespace, Name: match.hsmDevice.Name},
				DeviceType: match.hsmDevice.Spec.DeviceType,
			})
		}
	}
	return tokens
}

// find returns the devices that an HSMDevice describes.
func (m Matcher) find(ctx context.Context, spec v1alpha1.HSMDeviceSpec, usb []sysfs.Device, usbErr error) ([]sysfs.Device, error) {
	var matches func(sysfs.Device) bool
	switch discovery := spec.Discovery; {
	case discovery == nil:
		return nil, errors.New("spec.discovery is not set")
	case discovery.DevicePath != nil:
		return m.Host.Files(ctx, discovery.DevicePath.Path)
	case discovery.USB != nil:
		matches = func(device sysfs.Device) bool {
			return strings.EqualFold(device.VendorID, discovery.USB.VendorID) &&
				strings.EqualFold(device.ProductID, discovery.USB.ProductID) &&
				(discovery.USB.SerialNumber == "" || device.Serial == discovery.USB.SerialNumber)
		}
	case discovery.AutoDiscovery:
		matches = func(device sysfs.Device) bool { return m.Known.Is(spec.DeviceType, device) }
	default:
		return nil, errors.New("spec.discovery has no member set")
	}
	var devices []sysfs.Device
	for _, device := range usb {
		if matches(device) {
			devices = append(devices, device)
		}
	}
	return devices, usbErr
}

// precedence orders HSMDevices by how exactly they describe devices, then by age, then by
// name. A device belongs to the first HSMDevice that it matches, on every node and in every
// scan.
func precedence(a, b match) int {
	x, y := a.hsmDevice, b.hsmDevice
	return cmp.Or(
		cmp.Compare(vagueness(x.Spec), vagueness(y.Spec)),
		x.CreationTimestamp.Compare(y.CreationTimestamp.Time),
		cmp.Compare(x.Namespace, y.Namespace),
		cmp.Compare(x.Name, y.Name),
	)
}

func vagueness(spec v1alpha1.HSMDeviceSpec) int {
	switch discovery := spec.Discovery; {
	case discovery == nil:
		return 5
	case discovery.USB != nil && discovery.USB.SerialNumber != "":
		return 0
	case discovery.USB != nil:
		return 1
	case discovery.DevicePath != nil:
		return 2
	case spec.DeviceType != v1alpha1.DeviceTypeGeneric:
		return 3
	}
	return 4
}

// entry reports a match. It enters in takenBy which HSMDevice the devices belong to.
func (m Matcher) entry(match match, takenBy map[string]*v1alpha1.HSMDevice, serials map[string]int, last []report.Entry, now metav1.Time) report.Entry {
	entry := report.Entry{
		HSMDeviceNamespace: match.hsmDevice.Namespace,
		HSMDeviceName:      match.hsmDevice.Name,
		ObservedGeneration: match.hsmDevice.Generation,
		ReportingNode:      m.Node,
		NodeSelected:       match.selected,
		DiscoveredDevices:  []report.Device{},
		LastReportTime:     now,
		DiscoveryStatus:    v1alpha1.DiscoveryStatusCompleted,
	}
	var before []report.Device
	for _, old := range last {
		if old.HSMDeviceNamespace == entry.HSMDeviceNamespace && old.HSMDeviceName == entry.HSMDeviceName {
			before = old.DiscoveredDevices
		}
	}
	if match.err != nil {
		entry.DiscoveryStatus = v1alpha1.DiscoveryStatusError
		entry.Error = match.err.Error()
		entry.DiscoveredDevices = append(entry.DiscoveredDevices, before...)
		return entry
	}

	for _, device := range match.devices {
		discovered := report.Device{DevicePath: device.Path, ShortAPDUs: device.ShortAPDUs, LastSeen: now}
		if sysfs.CheckSerial(device.Serial) == nil {
			discovered.SerialNumber = device.Serial
		}
		if owner := takenBy[device.Name]; owner != nil {
			discovered.Reason = report.ReasonTakenByOther
			discovered.Message = fmt.Sprintf("the device belongs to HSMDevice %s/%s", owner.Namespace, owner.Name)
		} else {
			takenBy[device.Name] = match.hsmDevice
			discovered.Reason, discovered.Message = unusable(device, match.hsmDevice.Spec.Discovery.DevicePath, serials)
		}
		entry.DiscoveredDevices = append(entry.DiscoveredDevices, discovered)
	}
	applyMaxDevices(entry.DiscoveredDevices, int(match.hsmDevice.Spec.MaxDevices), before)
	slices.SortFunc(entry.DiscoveredDevices, byUse)
	return entry
}

// unusable returns why a device cannot be used; nothing if it can.
func unusable(device sysfs.Device, file *v1alpha1.DevicePathDiscovery, serials map[string]int) (report.Reason, string) {
	if device.Path == "" {
		return report.ReasonPathUnknown, "the kernel has no device file for USB device " + device.Name
	}
	if file != nil {
		if device.Mode&fs.ModeDevice == 0 {
			return report.ReasonNotADevice, "the file is not a device file"
		}
		if permissions := sysfs.Permissions(device.Mode); !permitted(permissions, file.Permissions) {
			return report.ReasonPermissionsDiffer, fmt.Sprintf("the permissions are %04o, not %s", permissions, file.Permissions)
		}
	}
	switch err := sysfs.CheckSerial(device.Serial); {
	case device.Serial == "":
		return report.ReasonSerialMissing, err.Error()
	case err != nil:
		return report.ReasonSerialInvalid, err.Error()
	case serials[device.Serial] > 1:
		return report.ReasonSerialAmbiguous, fmt.Sprintf("%d devices of this node have this serial number", serials[device.Serial])
	}
	return "", ""
}

// permitted reports whether permission bits are those of octal digits, if any are given.
func permitted(permissions uint32, octal string) bool {
	wanted, err := strconv.ParseUint(octal, 8, 32)
	return octal == "" || err == nil && uint64(permissions) == wanted
}

// applyMaxDevices leaves as many devices usable as the limit says: first those that were
// usable before, so that a new token does not replace one in service, then by serial number.
// 0, which defaulting excludes, is no limit.
func applyMaxDevices(devices []report.Device, limit int, before []report.Device) {
	inService := map[string]bool{}
	for _, device := range before {
		inService[device.SerialNumber] = inService[device.SerialNumber] || device.Reason == ""
	}
	slices.SortFunc(devices, func(a, b report.Device) int {
		return cmp.Or(trueFirst(inService[a.SerialNumber], inService[b.SerialNumber]), byUse(a, b))
	})
	usable := 0
	for i := range devices {
		if devices[i].Reason != "" {
			continue
		}
		if usable++; limit > 0 && usable > limit {
			devices[i].Reason = report.ReasonOverMaxDevices
			devices[i].Message = fmt.Sprintf("the node has more devices than maxDevices, %d", limit)
		}
	}
}

// byUse puts usable devices first, then orders by serial number and path.
func byUse(a, b report.Device) int {
	return cmp.Or(
		trueFirst(a.Reason == "", b.Reason == ""),
		cmp.Compare(a.SerialNumber, b.SerialNumber),
		cmp.Compare(a.DevicePath, b.DevicePath),
	)
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
