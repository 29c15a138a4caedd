// SPDX-License-Identifier: Apache-2.0

package uevent

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// message joins fields as the kernel does.
func message(fields ...string) []byte { return []byte(strings.Join(fields, "\x00") + "\x00") }

const usbPath = "/devices/pci0000:00/0000:00:14.0/usb1/1-1"

// What Linux 6.12 sends when a Pico is plugged in and pulled, without the strings of
// its bus and driver that play no part.
var (
	plugged = message("add@"+usbPath, "ACTION=add", "DEVPATH="+usbPath, "SUBSYSTEM=usb", "MAJOR=189", "MINOR=6",
		"DEVNAME=bus/usb/001/007", "DEVTYPE=usb_device", "PRODUCT=2e8a/10fd/806", "TYPE=0/0/0", "BUSNUM=001", "DEVNUM=007", "SEQNUM=4711")
	pulled = message("remove@"+usbPath, "ACTION=remove", "DEVPATH="+usbPath, "SUBSYSTEM=usb", "MAJOR=189", "MINOR=6",
		"DEVNAME=bus/usb/001/007", "DEVTYPE=usb_device", "PRODUCT=2e8a/10fd/806", "TYPE=0/0/0", "BUSNUM=001", "DEVNUM=007", "SEQNUM=4720")
	serialPort = message("add@"+usbPath+"/1-1:1.0/tty/ttyACM0", "ACTION=add", "DEVPATH="+usbPath+"/1-1:1.0/tty/ttyACM0",
		"SUBSYSTEM=tty", "MAJOR=166", "MINOR=0", "DEVNAME=ttyACM0", "SEQNUM=4713")
	disk = message("change@/devices/virtual/block/loop0", "ACTION=change", "DEVPATH=/devices/virtual/block/loop0",
		"SUBSYSTEM=block", "MAJOR=7", "MINOR=0", "DEVNAME=loop0", "DEVTYPE=disk", "SEQNUM=4714")
	network = message("add@/devices/virtual/net/veth0", "ACTION=add", "DEVPATH=/devices/virtual/net/veth0",
		"SUBSYSTEM=net", "INTERFACE=veth0", "IFINDEX=7", "SEQNUM=4715")
)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		message  []byte
		action   string
		devPath  string
		fields   int
		concerns bool
	}{
		"plugged":     {plugged, "add", usbPath, 12, true},
		"pulled":      {pulled, "remove", usbPath, 12, true},
		"serial port": {serialPort, "add", usbPath + "/1-1:1.0/tty/ttyACM0", 7, true},
		"disk":        {disk, "change", "/devices/virtual/block/loop0", 8, false},
		"network":     {network, "add", "/devices/virtual/net/veth0", 6, false},
		"empty value": {message("add@/a", "A="), "add", "/a", 1, false},
		"no fields":   {message("add@/a@b"), "add", "/a@b", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			event, err := Parse(test.message)
			if err != nil {
				t.Fatal(err)
			}
			if event.Action != test.action || event.DevPath != test.devPath || len(event.Env) != test.fields || event.ConcernsTokens() != test.concerns {
				t.Errorf("got %+v (%d fields, concerns tokens: %v)", event, len(event.Env), event.ConcernsTokens())
			}
		})
	}
	for name, message := range map[string][]byte{
		"nothing":      {},
		"zero":         {0},
		"cut":          plugged[:len(plugged)-1],
		"udevd":        []byte("libudev\x00\xfe\xed\xca\xfe\x28\x00\x00\x00"),
		"no action":    message("@/a"),
		"no path":      message("add@"),
		"other path":   message("add@a"),
		"no value":     message("add@/a", "KEY"),
		"no key":       message("add@/a", "=value"),
		"empty field":  message("add@/a", "", "A=b"),
		"long garbage": []byte(strings.Repeat("x", 1<<20) + "\x00"),
	} {
		event, err := Parse(message)
		if err == nil {
			t.Errorf("%s: got %+v", name, event)
		} else if len(err.Error()) > 512 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

// FuzzParse: what is parsed says the same as the message.
func FuzzParse(f *testing.F) {
	for _, seed := range [][]byte{plugged, pulled, serialPort, disk, network, {}, {0}, message("add@/a", "A=", "A=b")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		event, err := Parse(data)
		if err != nil {
			return
		}
		fields := []string{event.Action + "@" + event.DevPath}
		for _, key := range slices.Sorted(maps.Keys(event.Env)) {
			fields = append(fields, key+"="+event.Env[key])
		}
		again, err := Parse(message(fields...))
		if err != nil || again.Action != event.Action || again.DevPath != event.DevPath || !maps.Equal(again.Env, event.Env) {
			t.Errorf("%+v became %+v: %v", event, again, err)
		}
	})
}

func TestAccept(t *testing.T) {
	t.Parallel()
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}
	for name, test := range map[string]struct {
		message []byte
		flags   int
		from    unix.Sockaddr
		want    bool
	}{
		"the kernel":      {plugged, 0, kernel, true},
		"a process":       {plugged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: 4711, Groups: kernelGroup}, false},
		"another family":  {plugged, 0, &unix.SockaddrUnix{Name: "@"}, false},
		"nobody":          {plugged, 0, nil, false},
		"cut by the size": {plugged, unix.MSG_TRUNC, kernel, false},
		"not an event":    {[]byte("libudev\x00"), 0, kernel, false},
	} {
		if _, got := accept(test.message, test.flags, test.from); got != test.want {
			t.Errorf("%s: accepted: %v", name, got)
		}
	}
}
