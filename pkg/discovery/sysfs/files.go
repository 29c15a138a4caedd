// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// Files returns the devices whose files match a pattern of path.Match below /dev, by
// path. Several files of one device are one Device, with the first of their paths. What
// sysfs knows of the USB device behind a file is in it. A file that is no device is
// returned too: see its Mode.
func (h Host) Files(ctx context.Context, pattern string) ([]Device, error) {
	below, found := strings.CutPrefix(pattern, devPrefix)
	if !found || !fs.ValidPath(below) {
		return nil, fmt.Errorf("pattern %q: not a clean path below /dev", pattern)
	}
	dev, err := os.OpenRoot(h.Dev)
	if err != nil {
		return nil, fmt.Errorf("open the folder of device files: %w", err)
	}
	defer dev.Close()
	sys, err := os.OpenRoot(h.Sys)
	if err != nil {
		return nil, fmt.Errorf("open sysfs: %w", err)
	}
	defer sys.Close()
	names, err := fs.Glob(dev.FS(), below)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}

	logger := klog.FromContext(ctx)
	var devices []Device
	seen := map[string]bool{}
	for _, name := range names {
		info, err := dev.Stat(name)
		if err != nil {
			logger.V(2).Info("Ignoring a device file that cannot be read", "path", devPrefix+name, "err", err)
			continue
		}
		device := fromFile(sys, devPrefix+name, info)
		if !seen[device.Name] {
			seen[device.Name] = true
			devices = append(devices, device)
		}
	}
	return devices, nil
}

// fromFile completes what is known of a device file by what sysfs has of its number.
func fromFile(sys *os.Root, file string, info fs.FileInfo) Device {
	device := Device{Name: file, Path: file, Mode: info.Mode()}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeDevice == 0 {
		return device
	}
	number := uint64(stat.Rdev) //nolint:unconvert // 32 bits on some architectures
	device.Name = fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number))
	class := "block"
	if info.Mode()&fs.ModeCharDevice != 0 {
		class = "char"
	}
	entry := path.Join("dev", class, device.Name)
	if dir, err := sys.OpenRoot(entry); err == nil {
		// A link such as /dev/serial/by-id/… stays the same when the device gets another
		// number; the kernel's name does not.
		if name := kernelName(dir); name != "" {
			device.Path = name
		}
		_ = dir.Close()
	}
	if usb, err := usbParent(sys, entry); err == nil {
		usb.Path, usb.Mode = device.Path, device.Mode
		return usb
	}
	return device
}

// usbParent returns the USB device of which the device in folder is a part.
func usbParent(sys *os.Root, folder string) (Device, error) {
	if target, err := sys.Readlink(folder); err == nil {
		folder = path.Join(path.Dir(folder), target)
	}
	for ; fs.ValidPath(folder) && folder != "."; folder = path.Dir(folder) {
		if device, err := readUSB(sys, folder); err == nil {
			return device, nil
		}
	}
	return Device{}, errors.New("not a part of a USB device")
}

// Permissions returns the permission bits of a device file as chmod(1) takes them, with
// the set-user-ID, set-group-ID and sticky bits.
func Permissions(mode fs.FileMode) uint32 {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		bits |= unix.S_ISUID
	}
	if mode&fs.ModeSetgid != 0 {
		bits |= unix.S_ISGID
	}
	if mode&fs.ModeSticky != 0 {
		bits |= unix.S_ISVTX
	}
	return bits
}
