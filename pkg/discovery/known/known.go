// SPDX-License-Identifier: Apache-2.0

// Package known says by USB identity which devices are tokens, for autoDiscovery. It owns
// the table, which is data, and reads libccid's list of readers. It never reads hardware, and
// never proves that a device is what it claims to be: the agent does.
package known

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"sigs.k8s.io/yaml"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/sysfs"
)

//go:embed devices.yaml
var deviceTable []byte

// Row is one identity of the table.
type Row struct {
	DeviceType v1alpha1.DeviceType `json:"deviceType"`
	Name       string              `json:"name"`
	// VendorID and ProductID are four lower-case hexadecimal digits.
	VendorID  string `json:"vendorId"`
	ProductID string `json:"productId"`
	// UnlessProduct excludes devices whose USB product string begins with it.
	UnlessProduct string `json:"unlessProduct,omitempty"`
}

type usbID struct{ vendor, product string }

// Table is what is known of tokens.
type Table struct {
	rows    []Row
	readers map[usbID]bool
}

// New returns the built-in table.
func New() (*Table, error) {
	table := &Table{}
	if err := yaml.UnmarshalStrict(deviceTable, &table.rows); err != nil {
		return nil, fmt.Errorf("read the table of known devices: %w", err)
	}
	return table, nil
}

// AddReaders adds the readers of libccid's list to the devices of type Generic. The
// list is the first of files that exists; if none does, nothing is added.
func (t *Table) AddReaders(files ...string) error {
	for _, file := range files {
		content, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read libccid's list of readers: %w", err)
		}
		if t.readers, err = parseReaders(content); err != nil {
			return fmt.Errorf("read libccid's list of readers %s: %w", file, err)
		}
		return nil
	}
	return nil
}

// Rows returns the built-in table.
func (t *Table) Rows() []Row { return t.rows }

// Readers returns how many readers libccid's list holds.
func (t *Table) Readers() int { return len(t.readers) }

// Is reports whether the device has an identity of a token of this type. Generic is every
// known token and every reader of libccid's list.
func (t *Table) Is(deviceType v1alpha1.DeviceType, device sysfs.Device) bool {
	for _, row := range t.rows {
		if row.matches(device) && (row.DeviceType == deviceType || deviceType == v1alpha1.DeviceTypeGeneric) {
			return true
		}
	}
	return deviceType == v1alpha1.DeviceTypeGeneric && t.readers[usbID{device.VendorID, device.ProductID}]
}

func (r Row) matches(device sysfs.Device) bool {
	return r.VendorID == device.VendorID && r.ProductID == device.ProductID &&
		(r.UnlessProduct == "" || !strings.HasPrefix(device.Product, r.UnlessProduct))
}
