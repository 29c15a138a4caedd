// SPDX-License-Identifier: Apache-2.0

// Package sysfs reads from the kernel which hardware a node has: USB devices from
// sysfs, device files from /dev. It owns the way from these two trees to a Device. It
// never opens a device, never writes, and knows nothing of HSMDevices.
package sysfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// Device is a piece of hardware that may be a token. Strings of USB descriptors are
// what the device claims, and may hold anything.
type Device struct {
	// Name is unique among the devices of one host. For USB it is the place on the bus, such
	// as 1-1.4, which stays the same when the device is plugged in again there. Elsewhere
	// it is MAJOR:MINOR.
	Name string
	// Path is the device file on the host, such as /dev/bus/usb/001/007. Empty if the
	// kernel has none.
	Path string
	// VendorID and ProductID are four lower-case hexadecimal digits; empty if it is not USB.
	VendorID, ProductID string
	// Release is bcdDevice of the USB device descriptor, four hexadecimal digits; empty if
	// the kernel has none.
	Release string
	// Product and Serial are USB string descriptors; empty if there are none.
	Product, Serial string
	// ShortAPDUs is true for a smart card reader that takes short APDUs only.
	ShortAPDUs bool
	// Mode is that of the device file; 0 where the device was not found by its file.
	Mode fs.FileMode
}

// Host is where the two trees of a host are mounted. Each call opens them again, so that a
// tree which is mounted late is seen.
//
// Both are read through os.Root: sysfs consists of relative symbolic links, which are
// followed, but never out of the tree, and not without end.
type Host struct {
	// Sys is the mount point of sysfs, Dev that of the device files.
	Sys, Dev string
}

// DefaultHost is the host's trees below /host, where they are mounted there (the node's
// own trees, seen from a container), and those of this process elsewhere.
func DefaultHost() Host {
	return Host{Sys: firstDirectory("/host/sys", "/sys"), Dev: firstDirectory("/host/dev", "/dev")}
}

func firstDirectory(preferred, otherwise string) string {
	if info, err := os.Stat(preferred); err == nil && info.IsDir() {
		return preferred
	}
	return otherwise
}

// maxAttribute is the size of a sysfs attribute: the kernel gives at most a page.
const maxAttribute = 4 << 10

// attribute returns the content of a file without the space around it.
func attribute(dir *os.Root, name string) (string, error) {
	content, err := contentOf(dir, name)
	return string(bytes.TrimSpace(content)), err
}

func contentOf(dir *os.Root, name string) ([]byte, error) {
	// What should be an attribute may be a pipe in a tree that is not the kernel's: do
	// not wait for its other end.
	file, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxAttribute))
}

// optional turns the absence of an attribute, common on older kernels, into no value.
func optional(value string, err error) (string, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return value, err
}

// kernelName returns the path of the device file that the kernel proposes for the
// device in dir (DEVNAME of its uevent attribute), or "".
func kernelName(dir *os.Root) string {
	content, err := attribute(dir, "uevent")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(content) {
		name, found := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME=")
		if found && fs.ValidPath(name) && isPrintable(name) {
			return devPrefix + name
		}
	}
	return ""
}

// devPrefix begins every path of a device file, wherever the host's /dev is mounted.
const devPrefix = "/dev/"

// isPrintable is true for text of ASCII characters that show on paper, and spaces.
func isPrintable(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// MaxSerial is the largest serial number in characters: a USB string descriptor has at
// most 255 bytes, two of them its head, and two for each character (USB 2.0, 9.6.7).
const MaxSerial = 126

// CheckSerial says what is wrong with a serial number as an identity, or returns nil.
func CheckSerial(serial string) error {
	switch {
	case serial == "":
		return errors.New("the device has no serial number")
	case len(serial) > MaxSerial:
		return fmt.Errorf("the serial number has %d bytes, more than %d", len(serial), MaxSerial)
	case !isPrintable(serial):
		return fmt.Errorf("the serial number %+q holds more than printable ASCII characters", serial)
	}
	return nil
}
