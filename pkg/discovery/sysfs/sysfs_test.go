// SPDX-License-Identifier: Apache-2.0

package sysfs_test

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"j5t.io/hsm/pkg/discovery/sysfs"
	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
)

var pico = sysfstest.USB{
	Name: "1-1.4", VendorID: "2e8a", ProductID: "10fd", Manufacturer: "Pol Henarejos", Product: "Pico Key",
	Serial: "E6614C311B4FC726", BusNumber: "1", DeviceNumber: "7", Release: "060A",
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newTree(t *testing.T, devices ...sysfstest.USB) sysfstest.Tree {
	t.Helper()
	tree, err := sysfstest.New(t.TempDir())
	must(t, err)
	for _, device := range devices {
		must(t, tree.Plug(device))
	}
	return tree
}

func usb(t *testing.T, host sysfs.Host) []sysfs.Device {
	t.Helper()
	devices, err := host.USB(t.Context())
	must(t, err)
	slices.SortFunc(devices, func(a, b sysfs.Device) int { return cmp.Compare(a.Name, b.Name) })
	return devices
}

func TestUSB(t *testing.T) {
	t.Parallel()
	with := func(change func(*sysfstest.USB)) sysfstest.USB {
		device := pico
		change(&device)
		return device
	}
	found := sysfs.Device{
		Name: "1-1.4", Path: "/dev/bus/usb/001/007", VendorID: "2e8a", ProductID: "10fd",
		Product: "Pico Key", Serial: "E6614C311B4FC726", Release: "060a",
	}
	wanted := func(change func(*sysfs.Device)) []sysfs.Device {
		device := found
		change(&device)
		return []sysfs.Device{device}
	}
	for name, test := range map[string]struct {
		device sysfstest.USB
		want   []sysfs.Device
	}{
		"whole":                {pico, []sysfs.Device{found}},
		"upper-case ids":       {with(func(d *sysfstest.USB) { d.VendorID, d.ProductID = "2E8A", "10FD" }), []sysfs.Device{found}},
		"space around":         {with(func(d *sysfstest.USB) { d.Serial = " E6614C311B4FC726\t " }), []sysfs.Device{found}},
		"no serial":            {with(func(d *sysfstest.USB) { d.Serial = "" }), wanted(func(d *sysfs.Device) { d.Serial = "" })},
		"no release":           {with(func(d *sysfstest.USB) { d.Release = "" }), wanted(func(d *sysfs.Device) { d.Release = "" })},
		"release of words":     {with(func(d *sysfstest.USB) { d.Release = "v4.4" }), wanted(func(d *sysfs.Device) { d.Release = "" })},
		"no strings":           {with(func(d *sysfstest.USB) { d.Serial, d.Product = "", "" }), wanted(func(d *sysfs.Device) { d.Serial, d.Product = "", "" })},
		"high numbers":         {with(func(d *sysfstest.USB) { d.BusNumber, d.DeviceNumber = "12", "127" }), wanted(func(d *sysfs.Device) { d.Path = "/dev/bus/usb/012/127" })},
		"old kernel: DEVNAME":  {with(func(d *sysfstest.USB) { d.BusNumber, d.DeviceFileName = "", "bus/usb/001/007" }), []sysfs.Device{found}},
		"no numbers":           {with(func(d *sysfstest.USB) { d.BusNumber, d.DeviceNumber = "", "" }), wanted(func(d *sysfs.Device) { d.Path = "" })},
		"numbers of words":     {with(func(d *sysfstest.USB) { d.DeviceNumber = "-1" }), wanted(func(d *sysfs.Device) { d.Path = "" })},
		"DEVNAME leads out":    {with(func(d *sysfstest.USB) { d.BusNumber, d.DeviceFileName = "", "../etc/shadow" }), wanted(func(d *sysfs.Device) { d.Path = "" })},
		"DEVNAME with control": {with(func(d *sysfstest.USB) { d.BusNumber, d.DeviceFileName = "", "a\x1b[2J" }), wanted(func(d *sysfs.Device) { d.Path = "" })},
		"odd characters":       {with(func(d *sysfstest.USB) { d.Serial, d.Product = "\xff\x00\u202eé", "\xfe\n\n;" }), wanted(func(d *sysfs.Device) { d.Serial, d.Product = "\xff\x00\u202eé", "\xfe\n\n;" })},
		"no vendor":            {with(func(d *sysfstest.USB) { d.VendorID = "" }), nil},
		"no product":           {with(func(d *sysfstest.USB) { d.ProductID = "" }), nil},
		"vendor is no id":      {with(func(d *sysfstest.USB) { d.VendorID = "0x2e8a" }), nil},
		"huge attribute":       {with(func(d *sysfstest.USB) { d.Product = strings.Repeat("x", 1<<20) }), wanted(func(d *sysfs.Device) { d.Product = strings.Repeat("x", 4096) })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := usb(t, newTree(t, test.device).Host); !slices.Equal(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// TestUSBWithoutUSB tells a kernel without USB from a folder that is not sysfs.
func TestUSBWithoutUSB(t *testing.T) {
	t.Parallel()
	tree := newTree(t)
	must(t, os.RemoveAll(filepath.Join(tree.Sys, "bus/usb")))
	if devices := usb(t, tree.Host); len(devices) != 0 {
		t.Errorf("got %v from a kernel without USB", devices)
	}
	must(t, os.RemoveAll(filepath.Join(tree.Sys, "bus")))
	if _, err := tree.USB(t.Context()); err == nil || !strings.Contains(err.Error(), "is not sysfs") {
		t.Errorf("got %v from an empty folder", err)
	}
	must(t, os.RemoveAll(tree.Sys))
	if _, err := tree.USB(t.Context()); err == nil {
		t.Error("no error where nothing is mounted")
	}
}

// TestUSBOddEntries puts what sysfs never holds beside a good device, which must still
// be found.
func TestUSBOddEntries(t *testing.T) {
	t.Parallel()
	tree := newTree(t, pico)
	entries := filepath.Join(tree.Sys, "bus/usb/devices")
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.MkdirAll(outside, 0o755))
	for name, content := range map[string]string{"idVendor": "2e8a", "idProduct": "10fd", "serial": "OUTSIDE"} {
		must(t, os.WriteFile(filepath.Join(outside, name), []byte(content), 0o600))
	}
	for name, target := range map[string]string{
		"loop":     "loop",
		"loop-a":   "loop-b",
		"loop-b":   "loop-a",
		"self":     ".",
		"dangling": "../../../devices/nowhere",
		"absolute": outside,
		"climbing": strings.Repeat("../", 40) + strings.TrimPrefix(outside, "/"),
	} {
		must(t, os.Symlink(target, filepath.Join(entries, name)))
	}
	must(t, os.WriteFile(filepath.Join(entries, "file"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(entries, "empty"), 0o700))
	must(t, os.Mkdir(filepath.Join(entries, "odd\n\xff\x1b name"), 0o700))
	must(t, os.MkdirAll(filepath.Join(entries, "folders", "idVendor"), 0o700))
	must(t, os.Mkdir(filepath.Join(entries, "pipes"), 0o700))
	must(t, syscall.Mkfifo(filepath.Join(entries, "pipes", "idVendor"), 0o600))
	must(t, os.Mkdir(filepath.Join(entries, "escaping"), 0o700))
	must(t, os.Symlink(filepath.Join(outside, "idVendor"), filepath.Join(entries, "escaping", "idVendor")))

	if devices := usb(t, tree.Host); len(devices) != 1 || devices[0].Serial != pico.Serial {
		t.Errorf("got %+v, want the one good device", devices)
	}
}

func TestUSBManyEntries(t *testing.T) {
	t.Parallel()
	tree := newTree(t, pico)
	const count = 10_000
	for i := range count - 1 {
		must(t, os.Symlink(filepath.Join("../../..", tree.Folder(pico.Name)), filepath.Join(tree.Sys, "bus/usb/devices", "2-"+strconv.Itoa(i))))
	}
	if devices := usb(t, tree.Host); len(devices) != count {
		t.Errorf("got %d devices of %d", len(devices), count)
	}
}

// TestUSBChurn reads while devices come and go: what is found is never a mixture of two
// devices that followed each other in one place.
func TestUSBChurn(t *testing.T) {
	t.Parallel()
	tree := newTree(t)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for place := range 4 {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%04x", i&0xffff)
				device := sysfstest.USB{
					Name: "1-" + strconv.Itoa(place), VendorID: id, ProductID: id, Product: id, Serial: id, BusNumber: "1", DeviceNumber: strconv.Itoa(i & 0xfff),
				}
				if err := tree.Plug(device); err != nil {
					t.Error(err)
					return
				}
				if err := tree.Unplug(device.Name); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	seen := 0
	for scans := 0; t.Context().Err() == nil && (scans < 300 || seen == 0); scans++ {
		for _, device := range usb(t, tree.Host) {
			seen++
			// The kernel takes attributes away one by one; a file that is gone reads as none.
			if device.ProductID != device.VendorID || device.Product != "" && device.Product != device.VendorID || device.Serial != "" && device.Serial != device.VendorID {
				t.Errorf("a mixture: %+v", device)
			}
		}
	}
	close(stop)
	group.Wait()
}

// TestFiles uses a device file that every Linux machine has, /dev/null, and lets a
// made-up sysfs say what it is.
func TestFiles(t *testing.T) {
	t.Parallel()
	info, err := os.Stat("/dev/null")
	must(t, err)
	const number = "1:3" // Documentation/admin-guide/devices.txt
	onUSB := newTree(t, pico)
	must(t, onUSB.DeviceFile(pico.Name, number, "ttyACM0"))
	must(t, onUSB.DeviceFile(pico.Name, "1:5", "ttyACM1")) // /dev/zero
	usbDevice := usb(t, onUSB.Host)[0]
	usbDevice.Path, usbDevice.Mode = "/dev/ttyACM0", info.Mode()

	for name, test := range map[string]struct {
		sys     sysfstest.Tree
		pattern string
		want    []sysfs.Device
	}{
		"device unknown to sysfs":         {newTree(t), "/dev/nul[l]", []sysfs.Device{{Name: number, Path: "/dev/null", Mode: info.Mode()}}},
		"part of a USB device":            {onUSB, "/dev/null", []sysfs.Device{usbDevice}},
		"two files of one device":         {onUSB, "/dev/[nz][ue][lr][lo]", []sysfs.Device{usbDevice}},
		"no match":                        {onUSB, "/dev/no-such-*", nil},
		"a pattern that crosses no slash": {onUSB, "/dev/*/null", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := sysfs.Host{Sys: test.sys.Sys, Dev: "/dev"}
			got, err := host.Files(t.Context(), test.pattern)
			must(t, err)
			if !slices.Equal(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestFilesOddEntries(t *testing.T) {
	t.Parallel()
	tree := newTree(t)
	must(t, os.WriteFile(filepath.Join(tree.Dev, "hsm-file"), nil, 0o600))
	must(t, os.Chmod(filepath.Join(tree.Dev, "hsm-file"), 0o640))
	must(t, os.Mkdir(filepath.Join(tree.Dev, "hsm-folder"), 0o700))
	for name, target := range map[string]string{
		"hsm-link": "hsm-file", "hsm-loop": "hsm-loop", "hsm-dangling": "nowhere", "hsm-outside": "/etc/passwd", "hsm-climbing": "../../../../../../etc/passwd",
	} {
		must(t, os.Symlink(target, filepath.Join(tree.Dev, name)))
	}
	devices, err := tree.Files(t.Context(), "/dev/hsm-*")
	must(t, err)
	var got []string
	for _, device := range devices {
		got = append(got, fmt.Sprintf("%s %v", device.Path, device.Mode))
	}
	if want := []string{"/dev/hsm-file -rw-r-----", "/dev/hsm-folder drwx------", "/dev/hsm-link -rw-r-----"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	for _, pattern := range []string{"", "/dev", "/dev/", "hsm-*", "/etc/*", "/dev/../etc/*", "/dev//x", "/dev/[", "/dev/./x"} {
		if _, err := tree.Files(t.Context(), pattern); err == nil {
			t.Errorf("pattern %q: no error", pattern)
		}
	}
	for _, host := range []sysfs.Host{{Sys: tree.Sys, Dev: "/no/such"}, {Sys: "/no/such", Dev: tree.Dev}} {
		if _, err := host.Files(t.Context(), "/dev/*"); err == nil {
			t.Errorf("%+v: no error", host)
		}
	}
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	for want, mode := range map[uint32]fs.FileMode{
		0o0660: fs.ModeDevice | fs.ModeCharDevice | 0o660,
		0o4755: fs.ModeSetuid | 0o755,
		0o2750: fs.ModeSetgid | 0o750,
		0o1777: fs.ModeSticky | fs.ModeDir | 0o777,
	} {
		if got := sysfs.Permissions(mode); got != want {
			t.Errorf("%v: got %04o, want %04o", mode, got, want)
		}
	}
}

func TestCheckSerial(t *testing.T) {
	t.Parallel()
	for serial, valid := range map[string]bool{
		"E6614C311B4FC726":       true,
		"with space ~!":          true,
		strings.Repeat("9", 126): true,
		strings.Repeat("9", 127): false,
		"":                       false,
		"tab\t":                  false,
		"é":                      false,
		"\x7f":                   false,
		"\xff":                   false,
		"new\nline":              false,
	} {
		if err := sysfs.CheckSerial(serial); (err == nil) != valid {
			t.Errorf("%q: %v", serial, err)
		}
	}
}
