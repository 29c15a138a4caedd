// SPDX-License-Identifier: Apache-2.0

// Package uevent receives the kernel's events of hardware that came, went or changed. It owns the
// netlink socket and the format of its messages. It never speaks to udevd, and never
// says what a device is: sysfs does.
package uevent

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Event is one kernel uevent (lib/kobject_uevent.c).
type Event struct {
	// Action is add, remove, change, move, online, offline, bind or unbind.
	Action string
	// DevPath is the path of the device below /sys.
	DevPath string
	// Env is what the kernel says about the device, such as SUBSYSTEM and DEVNAME, and
	// ACTION and DEVPATH once more.
	Env map[string]string
}

// ConcernsTokens reports whether a token may have come or gone: the event is about a USB
// device, or about a device file that is no disk.
func (e Event) ConcernsTokens() bool {
	switch e.Env["SUBSYSTEM"] {
	case "usb":
		return true
	case "block":
		return false
	}
	return e.Env["DEVNAME"] != ""
}

// Parse reads a message: ACTION@DEVPATH, then KEY=VALUE, each ended by a zero byte.
// Messages of udevd, which begin with "libudev", are not events of the kernel.
func Parse(message []byte) (Event, error) {
	if len(message) == 0 || message[len(message)-1] != 0 {
		return Event{}, errors.New("uevent: the message does not end with a zero byte")
	}
	fields := bytes.Split(message[:len(message)-1], []byte{0})
	action, devPath, found := strings.Cut(string(fields[0]), "@")
	if !found || action == "" || !strings.HasPrefix(devPath, "/") {
		return Event{}, fmt.Errorf("uevent: the message begins with %+q, not with ACTION@DEVPATH", truncate(fields[0]))
	}
	event := Event{Action: action, DevPath: devPath, Env: make(map[string]string, len(fields)-1)}
	for _, field := range fields[1:] {
		key, value, found := strings.Cut(string(field), "=")
		if !found || key == "" {
			return Event{}, fmt.Errorf("uevent: %+q is not KEY=VALUE", truncate(field))
		}
		event.Env[key] = value
	}
	return event, nil
}

// truncate keeps errors short.
func truncate(text []byte) []byte { return text[:min(len(text), 64)] }
