// SPDX-License-Identifier: Apache-2.0

// Package report is what a discovery pod reports to the controller: one annotation on the
// pod itself, JSON, with an entry for each HSMDevice. It owns the format, its bounds and
// the writing of it. It never touches another field of the pod, nor another object.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/sysfs"
)

// Annotation is the key of the report.
const Annotation = "hsm.j5t.io/device-report"

const (
	// MaxSize is the largest report in bytes: half of what Kubernetes allows all the
	// annotations of an object together.
	MaxSize = 128 << 10
	// MaxDevices is the largest number of devices in an entry; more are counted only.
	MaxDevices = 100

	maxPath    = 4 << 10 // PATH_MAX
	maxMessage = 1 << 10
)

// Entry is what one node has of one HSMDevice.
type Entry struct {
	HSMDeviceNamespace string `json:"hsmDeviceNamespace"`
	HSMDeviceName      string `json:"hsmDeviceName"`
	// ObservedGeneration is the metadata.generation of the HSMDevice that was looked for.
	ObservedGeneration int64 `json:"observedGeneration"`
	// ReportingNode is the name of the node.
	ReportingNode string `json:"reportingNode"`
	// NodeSelected is false if the node lacks a label of the HSMDevice's nodeSelector.
	// Nothing was looked for then.
	NodeSelected bool `json:"nodeSelected"`
	// DiscoveredDevices are those that can be used, then those that cannot; never null.
	DiscoveredDevices []Device `json:"discoveredDevices"`
	// OmittedDevices is how many more there are that the report has no room for.
	OmittedDevices int `json:"omittedDevices,omitempty"`
	// LastReportTime is when the report was written. Its age says whether it still counts.
	LastReportTime metav1.Time `json:"lastReportTime"`
	// DiscoveryStatus is completed, or error: discoveredDevices are then
	// incomplete or the last known ones, and the absence of a device means nothing.
	DiscoveryStatus v1alpha1.DiscoveryStatus `json:"discoveryStatus"`
	// Error says why discovery failed.
	Error string `json:"error,omitempty"`
}

// Device is a piece of hardware that matches an HSMDevice.
type Device struct {
	// DevicePath is the device file on the node. It changes when the device is plugged
	// in again.
	DevicePath string `json:"devicePath"`
	// SerialNumber is printable ASCII, at most sysfs.MaxSerial characters; empty if the
	// device has no valid one.
	SerialNumber string `json:"serialNumber,omitempty"`
	// ShortAPDUs is true for a smart card reader that takes short APDUs only.
	ShortAPDUs bool `json:"shortAPDUs,omitempty"`
	// LastSeen is when the device was there.
	LastSeen metav1.Time `json:"lastSeen"`
	// Reason says why the device cannot be used; empty if it can.
	Reason Reason `json:"reason,omitempty"`
	// Message is the reason in words.
	Message string `json:"message,omitempty"`
}

// Reason says why a device cannot be used.
type Reason string

const (
	// ReasonSerialMissing: the device has no serial number by which it could be identified.
	ReasonSerialMissing Reason = "SerialMissing"
	// ReasonSerialInvalid: the serial number is too long or not printable ASCII.
	ReasonSerialInvalid Reason = "SerialInvalid"
	// ReasonSerialAmbiguous: several devices of the node have this serial number.
	ReasonSerialAmbiguous Reason = "SerialAmbiguous"
	// ReasonPathUnknown: the kernel has no device file for it.
	ReasonPathUnknown Reason = "PathUnknown"
	// ReasonNotADevice: the file is not a device file.
	ReasonNotADevice Reason = "NotADevice"
	// ReasonPermissionsDiffer: the device file has not the permissions that are asked for.
	ReasonPermissionsDiffer Reason = "PermissionsDiffer"
	// ReasonTakenByOther: another HSMDevice describes the device more exactly.
	ReasonTakenByOther Reason = "TakenByOther"
	// ReasonOverMaxDevices: the node alone has more devices than maxDevices. Of a pool
	// that spans nodes, the controller has the last word.
	ReasonOverMaxDevices Reason = "OverMaxDevices"
)

// ErrTooLarge: there are more HSMDevices than a report has room for.
var ErrTooLarge = errors.New("the report is too large; there are too many HSMDevices")

// Encode returns the annotation's value, at most MaxSize. Devices that do not fit are
// left out, the same number at most being kept in each entry; an entry that lacks some
// counts them, and is an error. Times are whole seconds.
func Encode(entries []Entry) (string, error) {
	for limit := MaxDevices; ; limit /= 2 {
		limited := make([]Entry, len(entries))
		for i, entry := range entries {
			limited[i] = entry.limit(limit)
		}
		value, err := json.Marshal(limited)
		if err != nil {
			return "", fmt.Errorf("encode the report: %w", err)
		}
		if len(value) <= MaxSize {
			return string(value), nil
		}
		if limit == 0 {
			return "", fmt.Errorf("%w: %d bytes for %d HSMDevices, more than %d", ErrTooLarge, len(value), len(entries), MaxSize)
		}
	}
}

// limit keeps so many devices, and every text within the bounds.
func (e Entry) limit(devices int) Entry {
	if omitted := len(e.DiscoveredDevices) - devices; omitted > 0 {
		e.DiscoveredDevices = e.DiscoveredDevices[:devices]
		e.OmittedDevices += omitted
		e.DiscoveryStatus = v1alpha1.DiscoveryStatusError
		e.Error = fmt.Sprintf("%d devices do not fit into the report; narrow spec.discovery", e.OmittedDevices)
	}
	e.Error = truncate(e.Error)
	e.DiscoveredDevices = append(make([]Device, 0, len(e.DiscoveredDevices)), e.DiscoveredDevices...)
	for i := range e.DiscoveredDevices {
		e.DiscoveredDevices[i].Message = truncate(e.DiscoveredDevices[i].Message)
	}
	return e
}

// truncate cuts a text to maxMessage bytes, and between characters.
func truncate(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage], "")
}

// Decode reads the annotation's value, which anybody may have written who can write to
// pods. What it returns keeps the bounds of this package; nothing else about it is certain.
func Decode(value string) ([]Entry, error) {
	if len(value) > MaxSize {
		return nil, fmt.Errorf("decode a report: %d bytes, more than %d", len(value), MaxSize)
	}
	var entries []Entry
	if err := json.Unmarshal([]byte(value), &entries); err != nil {
		return nil, fmt.Errorf("decode a report: %w", err)
	}
	type name struct{ namespace, name string }
	seen := map[name]bool{}
	for i, entry := range entries {
		key := name{entry.HSMDeviceNamespace, entry.HSMDeviceName}
		if seen[key] {
			return nil, fmt.Errorf("decode a report: HSMDevice %s/%s has two entries", key.namespace, key.name)
		}
		seen[key] = true
		if err := entry.validate(); err != nil {
			return nil, fmt.Errorf("decode a report: entry %d: %w", i, err)
		}
	}
	return entries, nil
}

var statuses = []v1alpha1.DiscoveryStatus{
	v1alpha1.DiscoveryStatusDiscovering, v1alpha1.DiscoveryStatusCompleted, v1alpha1.DiscoveryStatusError,
}

func (e Entry) validate() error {
	switch {
	case e.HSMDeviceNamespace == "" || e.HSMDeviceName == "" || e.ReportingNode == "":
		return errors.New("hsmDeviceNamespace, hsmDeviceName and reportingNode are needed")
	case !slices.Contains(statuses, e.DiscoveryStatus):
		return fmt.Errorf("discoveryStatus %+q is none of %q", e.DiscoveryStatus, statuses)
	case len(e.DiscoveredDevices) > MaxDevices:
		return fmt.Errorf("%d devices, more than %d", len(e.DiscoveredDevices), MaxDevices)
	case e.OmittedDevices < 0:
		return errors.New("omittedDevices is negative")
	case len(e.Error) > maxMessage:
		return fmt.Errorf("error has %d bytes, more than %d", len(e.Error), maxMessage)
	}
	for i, device := range e.DiscoveredDevices {
		if err := device.validate(); err != nil {
			return fmt.Errorf("device %d: %w", i, err)
		}
	}
	return nil
}

func (d Device) validate() error {
	switch {
	case len(d.DevicePath) > maxPath:
		return fmt.Errorf("devicePath has %d bytes, more than %d", len(d.DevicePath), maxPath)
	case len(d.Message) > maxMessage:
		return fmt.Errorf("message has %d bytes, more than %d", len(d.Message), maxMessage)
	case (d.Reason == "" || d.DevicePath != "") && !isDevicePath(d.DevicePath):
		return fmt.Errorf("devicePath %+q is not a clean path below /dev", d.DevicePath)
	case d.Reason == "" || d.SerialNumber != "":
		return sysfs.CheckSerial(d.SerialNumber)
	}
	return nil
}

// isDevicePath keeps a forged report from choosing another file of the node.
func isDevicePath(file string) bool {
	below, found := strings.CutPrefix(file, "/dev/")
	return found && fs.ValidPath(below) && below != "."
}

// Same reports whether two reports differ in nothing but their times.
func Same(a, b []Entry) bool { return reflect.DeepEqual(timeless(a), timeless(b)) }

func timeless(entries []Entry) []Entry {
	result := make([]Entry, len(entries))
	for i, entry := range entries {
		entry.LastReportTime = metav1.Time{}
		// An empty and a missing list are the same, and the caller's stays as it is.
		entry.DiscoveredDevices = append(make([]Device, 0, len(entry.DiscoveredDevices)), entry.DiscoveredDevices...)
		for j := range entry.DiscoveredDevices {
			entry.DiscoveredDevices[j].LastSeen = metav1.Time{}
		}
		result[i] = entry
	}
	return result
}

// Time is a time as reports have it: UTC, whole seconds.
func Time(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }
