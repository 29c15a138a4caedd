// SPDX-License-Identifier: Apache-2.0

// Package sysfstest makes trees of files that look like sysfs and /dev of a host with
// USB devices. It owns one folder. It never looks at the machine's own devices.
package sysfstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"j5t.io/hsm/pkg/discovery/sysfs"
)

// controller is the USB host controller to which all devices are plugged.
const controller = "devices/pci0000:00/0000:00:14.0/usb1"

// USB is a device to plug in. An attribute without a value has no file, as on a kernel
// that does not know it.
type USB struct {
	// Name is the place on the bus, such as 1-1.4.
	Name                                            string
	VendorID, ProductID, Manufacturer, Product      string
	Serial, BusNumber, DeviceNumber, DeviceFileName string
	// Release is bcdDevice.
	Release string
	// Descriptors are the raw ones.
	Descriptors []byte
}

// Tree is the two trees of a host.
type Tree struct{ sysfs.Host }

// New makes the trees of a host without devices below dir.
func New(dir string) (Tree, error) {
	tree := Tree{sysfs.Host{Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev")}}
	for _, folder := range []string{tree.Dev, tree.path("bus/usb/devices"), tree.path("dev/char"), tree.path(controller)} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return Tree{}, err
		}
	}
	return tree, nil
}

// Plug puts a device in. It appears at once and whole, with an interface, as the kernel
// does it.
func (t Tree) Plug(device USB) error {
	folder := t.Folder(device.Name)
	for name, value := range map[string]string{
		"idVendor":     device.VendorID,
		"idProduct":    device.ProductID,
		"manufacturer": device.Manufacturer,
		"product":      device.Product,
		"serial":       device.Serial,
		"busnum":       device.BusNumber,
		"devnum":       device.DeviceNumber,
		"bcdDevice":    device.Release,
		"descriptors":  string(device.Descriptors),
	} {
		if value == "" {
			continue
		}
		if err := t.write(filepath.Join(folder, name), value+"\n"); err != nil {
			return err
		}
	}
	event := "DEVTYPE=usb_device\n"
	if device.DeviceFileName != "" {
		event += "DEVNAME=" + device.DeviceFileName + "\n"
	}
	if err := t.write(filepath.Join(folder, "uevent"), event); err != nil {
		return err
	}
	for _, name := range []string{device.Name + ":1.0", device.Name} {
		target := folder
		if strings.Contains(name, ":") {
			target = filepath.Join(folder, name)
			if err := t.write(filepath.Join(target, "bInterfaceClass"), "0b\n"); err != nil {
				return err
			}
		}
		if err := t.link(filepath.Join("bus/usb/devices", name), target); err != nil {
			return err
		}
	}
	return nil
}

// Unplug takes a device out, which then is gone at once.
func (t Tree) Unplug(name string) error {
	for _, link := range []string{name, name + ":1.0"} {
		if err := os.Remove(t.path("bus/usb/devices", link)); err != nil {
			return fmt.Errorf("unplug %s: %w", name, err)
		}
	}
	return os.RemoveAll(t.path(t.Folder(name)))
}

// DeviceFile says that the character device MAJOR:MINOR is a part of the USB device,
// as a serial port is, and what the kernel calls its file.
func (t Tree) DeviceFile(usb, number, name string) error {
	folder := filepath.Join(t.Folder(usb), usb+":1.0", "tty", name)
	if err := t.write(filepath.Join(folder, "uevent"), "DEVNAME="+name+"\n"); err != nil {
		return err
	}
	return t.link(filepath.Join("dev/char", number), folder)
}

// Folder is the device's own, relative to the root of sysfs.
func (t Tree) Folder(name string) string { return filepath.Join(controller, name) }

func (t Tree) path(parts ...string) string {
	return filepath.Join(append([]string{t.Sys}, parts...)...)
}

func (t Tree) write(file, content string) error {
	if err := os.MkdirAll(filepath.Dir(t.path(file)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(t.path(file), []byte(content), 0o400)
}

// link makes a relative link, as all links of sysfs are.
func (t Tree) link(name, target string) error {
	relative, err := filepath.Rel(filepath.Dir(name), target)
	if err != nil {
		return err
	}
	return os.Symlink(relative, t.path(name))
}
