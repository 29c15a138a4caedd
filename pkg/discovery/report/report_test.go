// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/report"
)

var now = report.Time(time.Date(2026, 11, 24, 11, 22, 33, 444, time.FixedZone("", 3600)))

func entry(name string, devices ...report.Device) report.Entry {
	return report.Entry{
		HSMDeviceNamespace: "hsm-system",
		HSMDeviceName:      name,
		ObservedGeneration: 3,
		ReportingNode:      "node-1",
		NodeSelected:       true,
		DiscoveredDevices:  append([]report.Device{}, devices...),
		LastReportTime:     now,
		DiscoveryStatus:    v1alpha1.DiscoveryStatusCompleted,
	}
}

func device(serial string) report.Device {
	return report.Device{DevicePath: "/dev/bus/usb/001/007", SerialNumber: serial, LastSeen: now}
}

func unusable(reason report.Reason, message string) report.Device {
	return report.Device{DevicePath: "/dev/ttyACM0", LastSeen: now, Reason: reason, Message: message}
}

// TestFormat fixes the annotation as others read it.
func TestFormat(t *testing.T) {
	t.Parallel()
	value, err := report.Encode([]report.Entry{entry("pico", device("E661"), unusable(report.ReasonSerialMissing, "why"))})
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"hsmDeviceNamespace":"hsm-system","hsmDeviceName":"pico","observedGeneration":3,"reportingNode":"node-1","nodeSelected":true,` +
		`"discoveredDevices":[{"devicePath":"/dev/bus/usb/001/007","serialNumber":"E661","lastSeen":"2026-11-24T10:22:33Z"},` +
		`{"devicePath":"/dev/ttyACM0","lastSeen":"2026-11-24T10:22:33Z","reason":"SerialMissing","message":"why"}],` +
		`"lastReportTime":"2026-11-24T10:22:33Z","discoveryStatus":"completed"}]`
	if value != want {
		t.Errorf("got  %s\nwant %s", value, want)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	failed := entry("c")
	failed.DiscoveryStatus, failed.Error = v1alpha1.DiscoveryStatusError, "sysfs is not mounted"
	for name, entries := range map[string][]report.Entry{
		"none":    {},
		"several": {entry("a", device("1"), device("2")), entry("b"), failed},
	} {
		value, err := report.Encode(entries)
		if err != nil {
			t.Fatal(err)
		}
		got, err := report.Decode(value)
		if err != nil {
			t.Fatal(err)
		}
		if !report.Same(got, entries) || len(got) > 0 && !got[0].LastReportTime.Equal(&now) {
			t.Errorf("%s: got %+v, want %+v", name, got, entries)
		}
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ entries, devices, kept int }{
		{1, report.MaxDevices, report.MaxDevices},
		{1, report.MaxDevices + 1, report.MaxDevices},
		{1, 10_000, report.MaxDevices},
		{20, 100, 25},
		{150, 10, 1},
		{300, 10, 0},
	} {
		t.Run(fmt.Sprintf("%d times %d", test.entries, test.devices), func(t *testing.T) {
			t.Parallel()
			entries := make([]report.Entry, test.entries)
			for i := range entries {
				entries[i] = entry(fmt.Sprint("device-", i))
				for j := range test.devices {
					entries[i].DiscoveredDevices = append(entries[i].DiscoveredDevices, device(fmt.Sprintf("%0126d", j)))
				}
			}
			value, err := report.Encode(entries)
			if err != nil {
				t.Fatal(err)
			}
			if len(value) > report.MaxSize {
				t.Errorf("%d bytes", len(value))
			}
			decoded, err := report.Decode(value)
			if err != nil {
				t.Fatal(err)
			}
			for i, entry := range decoded {
				if len(entry.DiscoveredDevices) != test.kept || entry.OmittedDevices != test.devices-test.kept {
					t.Fatalf("kept %d, omitted %d; want %d kept of %d", len(entry.DiscoveredDevices), entry.OmittedDevices, test.kept, test.devices)
				}
				if want := test.kept == test.devices; (entry.DiscoveryStatus == v1alpha1.DiscoveryStatusCompleted) != want || (entry.Error == "") != want {
					t.Errorf("status %s, error %q", entry.DiscoveryStatus, entry.Error)
				}
				if len(entries[i].DiscoveredDevices) != test.devices {
					t.Error("Encode changed what it was given")
				}
			}
		})
	}

	many := make([]report.Entry, 1000)
	for i := range many {
		many[i] = entry(fmt.Sprint(i))
	}
	if _, err := report.Encode(many); !errors.Is(err, report.ErrTooLarge) {
		t.Errorf("1000 HSMDevices: %v", err)
	}

	long := entry("long", unusable(report.ReasonPathUnknown, strings.Repeat("é", 1<<20)))
	long.Error = "x" + strings.Repeat("é", 1<<20)
	value, err := report.Encode([]report.Entry{long})
	if err != nil {
		t.Fatal(err)
	}
	if decoded, err := report.Decode(value); err != nil || !utf8.ValidString(decoded[0].Error) || len(decoded[0].Error) < 1000 {
		t.Errorf("long texts: %v", err)
	}
}

// TestDecodeForged shows what a pod that is not ours cannot make of an annotation.
func TestDecodeForged(t *testing.T) {
	t.Parallel()
	with := func(change func(*report.Entry)) report.Entry {
		e := entry("pico", device("E661"))
		change(&e)
		return e
	}
	withPath := func(path string) report.Entry {
		return with(func(e *report.Entry) { e.DiscoveredDevices[0].DevicePath = path })
	}
	for name, forged := range map[string]report.Entry{
		"no name":             with(func(e *report.Entry) { e.HSMDeviceName = "" }),
		"no namespace":        with(func(e *report.Entry) { e.HSMDeviceNamespace = "" }),
		"no node":             with(func(e *report.Entry) { e.ReportingNode = "" }),
		"no status":           with(func(e *report.Entry) { e.DiscoveryStatus = "" }),
		"negative":            with(func(e *report.Entry) { e.OmittedDevices = -1 }),
		"no serial":           with(func(e *report.Entry) { e.DiscoveredDevices[0].SerialNumber = "" }),
		"serial of 127":       with(func(e *report.Entry) { e.DiscoveredDevices[0].SerialNumber = strings.Repeat("1", 127) }),
		"serial with control": with(func(e *report.Entry) { e.DiscoveredDevices[0].SerialNumber = "\x1b[2J" }),
		"no path":             withPath(""),
		"another file":        withPath("/etc/shadow"),
		"a way out":           withPath("/dev/../etc/shadow"),
		"all of /dev":         withPath("/dev/"),
		"not clean":           withPath("/dev//null"),
		"long path":           withPath("/dev/" + strings.Repeat("x", 5000)),
		"unusable, another file": with(func(e *report.Entry) {
			e.DiscoveredDevices[0].DevicePath, e.DiscoveredDevices[0].Reason = "/etc/shadow", report.ReasonNotADevice
		}),
	} {
		value, err := report.Encode([]report.Entry{forged})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := report.Decode(value); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// What Encode does not write, or mends.
	for name, value := range map[string]string{
		"not JSON":     "x",
		"an object":    "{}",
		"giant":        "[" + strings.Repeat(" ", report.MaxSize) + "]",
		"two entries":  `[{"hsmDeviceNamespace":"a","hsmDeviceName":"b","reportingNode":"n","discoveryStatus":"completed"},{"hsmDeviceNamespace":"a","hsmDeviceName":"b","reportingNode":"n","discoveryStatus":"completed"}]`,
		"1000 devices": `[{"hsmDeviceNamespace":"a","hsmDeviceName":"b","reportingNode":"n","discoveryStatus":"completed","discoveredDevices":[` + strings.Repeat(`{"devicePath":"/dev/a","serialNumber":"1"},`, 1000) + `{"devicePath":"/dev/a","serialNumber":"1"}]}]`,
		"long error":   `[{"hsmDeviceNamespace":"a","hsmDeviceName":"b","reportingNode":"n","discoveryStatus":"error","error":"` + strings.Repeat("x", 2000) + `"}]`,
		"long message": `[{"hsmDeviceNamespace":"a","hsmDeviceName":"b","reportingNode":"n","discoveryStatus":"completed","discoveredDevices":[{"devicePath":"/dev/a","serialNumber":"1","message":"` + strings.Repeat("x", 2000) + `"}]}]`,
		"a bad time":   `[{"hsmDeviceNamespace":"a","hsmDeviceName":"b","reportingNode":"n","discoveryStatus":"completed","lastReportTime":"yesterday"}]`,
	} {
		if _, err := report.Decode(value); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	a := []report.Entry{entry("pico", device("1"))}
	later := entry("pico", device("1"))
	later.LastReportTime = metav1.NewTime(now.Add(time.Hour))
	later.DiscoveredDevices[0].LastSeen = later.LastReportTime
	if !report.Same(a, []report.Entry{later}) {
		t.Error("another time makes another report")
	}
	if !report.Same([]report.Entry{{DiscoveredDevices: nil}}, []report.Entry{{DiscoveredDevices: []report.Device{}}}) {
		t.Error("no devices are not none")
	}
	// Every field but the times counts, new ones too.
	for _, typ := range []reflect.Type{reflect.TypeFor[report.Entry](), reflect.TypeFor[report.Device]()} {
		for i := range typ.NumField() {
			changed := entry("pico", device("1"))
			value := reflect.ValueOf(&changed).Elem()
			if typ == reflect.TypeFor[report.Device]() {
				value = reflect.ValueOf(&changed.DiscoveredDevices[0]).Elem()
			}
			switch field := value.Field(i); field.Kind() {
			case reflect.String:
				field.SetString("changed")
			case reflect.Int, reflect.Int64:
				field.SetInt(99)
			case reflect.Bool:
				field.SetBool(!field.Bool())
			case reflect.Slice:
				field.SetZero()
			default: // a time
				continue
			}
			if report.Same(a, []report.Entry{changed}) {
				t.Errorf("a change of %s.%s is not seen", typ.Name(), typ.Field(i).Name)
			}
		}
	}
	if now.Hour() != 10 || a[0].DiscoveredDevices[0].LastSeen != now {
		t.Error("Same changed what it was given")
	}
}

// FuzzDecode: what Decode takes, Encode can write, and Decode takes again.
func FuzzDecode(f *testing.F) {
	for _, entries := range [][]report.Entry{{}, {entry("a", device("1")), entry("b", unusable(report.ReasonSerialMissing, "é"))}} {
		value, err := report.Encode(entries)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	f.Add(`null`)
	f.Add(`[{"hsmDeviceNamespace":"a","hsmDeviceName":"b","reportingNode":"n","discoveryStatus":"error","discoveredDevices":null}]`)
	f.Fuzz(func(t *testing.T, value string) {
		entries, err := report.Decode(value)
		if err != nil {
			return
		}
		again, err := report.Encode(entries)
		if errors.Is(err, report.ErrTooLarge) {
			return // Escapes take more room than what they stand for.
		}
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := report.Decode(again)
		if err != nil {
			t.Fatalf("%v: %s", err, again)
		}
		if len(decoded) != len(entries) {
			t.Errorf("%d entries became %d", len(entries), len(decoded))
		}
	})
}
