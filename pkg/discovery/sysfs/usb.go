// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/klog/v2"
)

// usbDevices is the folder of all USB devices and interfaces (Documentation/ABI/stable/sysfs-bus-usb).
const usbDevices = "bus/usb/devices"

// usbID is a 16 bit field of a descriptor.
var usbID = regexp.MustCompile(`^[0-9a-f]{4}$`)

// errVanished says that a device was unplugged while it was read.
var errVanished = errors.New("the device vanished")

// USB returns the USB devices of the host, in no order. A kernel without USB has none.
// A device that cannot be read, or is unplugged meanwhile, is left out and logged; an
// error means that nothing is known of any.
func (h Host) USB(ctx context.Context) ([]Device, error) {
	root, err := os.OpenRoot(h.Sys)
	if err != nil {
		return nil, fmt.Errorf("open sysfs: %w", err)
	}
	defer root.Close()
	if _, err := root.Stat("bus"); err != nil {
		return nil, fmt.Errorf("%s is not sysfs; mount it there: %w", h.Sys, err)
	}
	folder, err := root.Open(usbDevices)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list USB devices: %w", err)
	}
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list USB devices: %w", err)
	}

	logger := klog.FromContext(ctx)
	var devices []Device
	for _, name := range names {
		// An interface of a device, such as 1-1.4:1.0, has a colon.
		if strings.Contains(name, ":") {
			continue
		}
		device, err := readUSB(root, path.Join(usbDevices, name))
		switch {
		case errors.Is(err, errVanished):
			logger.V(2).Info("USB device was unplugged while it was read", "device", name)
		case err != nil:
			logger.V(2).Info("Ignoring a USB device that cannot be read", "device", name, "err", err)
		default:
			devices = append(devices, device)
		}
	}
	return devices, nil
}

// readUSB reads a device from its folder. All of it comes from one and the same
// device: the folder is opened once, and when another device takes its place, the open
// one is empty.
func readUSB(root *os.Root, folder string) (Device, error) {
	dir, err := root.OpenRoot(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return Device{}, errVanished
	}
	if err != nil {
		return Device{}, err
	}
	defer dir.Close()

	device := Device{Name: path.Base(folder)}
	read := func(name string) (value string) {
		if err == nil {
			value, err = optional(attribute(dir, name))
		}
		return value
	}
	device.VendorID = strings.ToLower(read("idVendor"))
	device.ProductID = strings.ToLower(read("idProduct"))
	if release := strings.ToLower(read("bcdDevice")); usbID.MatchString(release) {
		device.Release = release
	}
	device.Product = read("product")
	device.Serial = read("serial")
	bus, number := read("busnum"), read("devnum")
	// Without descriptors nothing is known of the reader, and the device is one all the same.
	if descriptors, readErr := contentOf(dir, "descriptors"); readErr == nil {
		device.ShortAPDUs = shortAPDUs(descriptors)
	}
	if _, statErr := dir.Stat("idVendor"); errors.Is(statErr, fs.ErrNotExist) {
		return Device{}, errVanished
	}
	switch {
	case err != nil:
		return Device{}, err
	case !usbID.MatchString(device.VendorID) || !usbID.MatchString(device.ProductID):
		return Device{}, fmt.Errorf("idVendor %+q and idProduct %+q are not USB ids", device.VendorID, device.ProductID)
	}
	if device.Path = usbPath(bus, number); device.Path == "" {
		device.Path = kernelName(dir)
	}
	return device, nil
}

// usbPath returns the path of the device file of a USB device, or "".
func usbPath(bus, number string) string {
	b, busErr := strconv.ParseUint(bus, 10, 16)
	n, numberErr := strconv.ParseUint(number, 10, 16)
	if busErr != nil || numberErr != nil {
		return ""
	}
	return fmt.Sprintf("%sbus/usb/%03d/%03d", devPrefix, b, n)
}
