// SPDX-License-Identifier: Apache-2.0

package discovery_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery"
	"j5t.io/hsm/pkg/discovery/allocatable"
	"j5t.io/hsm/pkg/discovery/known"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/discovery/sysfs"
	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
)

var now = report.Time(time.Date(2026, 11, 24, 11, 22, 33, 0, time.UTC))

const (
	node = "node-1"
	// nullNumber is that of /dev/null, the device file that every Linux machine has.
	nullNumber = "1:3"
)

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

func newMatcher(t *testing.T, host sysfs.Host) discovery.Matcher {
	t.Helper()
	table, err := known.New()
	must(t, err)
	return discovery.Matcher{Host: host, Known: table, Node: node}
}

// pico is a Pico HSM with this serial number, in this place of the bus.
func pico(place int, serial string) sysfstest.USB {
	return sysfstest.USB{
		Name: fmt.Sprint("1-", place), VendorID: "2e8a", ProductID: "10fd", Product: "Pico Key", Serial: serial, BusNumber: "1", DeviceNumber: strconv.Itoa(place),
	}
}

// nitrokey is a Nitrokey HSM.
func nitrokey(place int, serial string) sysfstest.USB {
	device := pico(place, serial)
	device.VendorID, device.ProductID, device.Product = "20a0", "4230", "Nitrokey HSM"
	return device
}

func hsmDevice(name string, spec v1alpha1.HSMDeviceSpec) *v1alpha1.HSMDevice {
	if spec.DeviceType == "" {
		spec.DeviceType = v1alpha1.DeviceTypePicoHSM
	}
	if spec.MaxDevices == 0 {
		spec.MaxDevices = 10
	}
	return &v1alpha1.HSMDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "hsm-system", Name: name, Generation: 7}, Spec: spec}
}

func byUSB(vendor, product, serial string) *v1alpha1.Discovery {
	return &v1alpha1.Discovery{USB: &v1alpha1.USBDiscovery{VendorID: vendor, ProductID: product, SerialNumber: serial}}
}

func byPath(path, permissions string) *v1alpha1.Discovery {
	return &v1alpha1.Discovery{DevicePath: &v1alpha1.DevicePathDiscovery{Path: path, Permissions: permissions}}
}

var auto = &v1alpha1.Discovery{AutoDiscovery: true}

// brief is an entry in a line.
func brief(entry report.Entry) string {
	words := []string{entry.HSMDeviceName + ":"}
	if !entry.NodeSelected {
		words = append(words, "not selected")
	}
	if entry.DiscoveryStatus != v1alpha1.DiscoveryStatusCompleted {
		words = append(words, string(entry.DiscoveryStatus))
	}
	for _, device := range entry.DiscoveredDevices {
		word := device.SerialNumber + "@" + device.DevicePath
		if device.Reason != "" {
			word += "!" + string(device.Reason)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// usable are the tokens that entries report as usable.
func usable(entries []report.Entry) (tokens []string) {
	for _, entry := range entries {
		for _, device := range entry.DiscoveredDevices {
			if device.Reason == "" {
				tokens = append(tokens, entry.HSMDeviceName+": "+device.SerialNumber+"@"+device.DevicePath)
			}
		}
	}
	slices.Sort(tokens)
	return tokens
}

// access is what of the node pods are given access to.
func access(tokens []allocatable.Token) (names []string) {
	for _, token := range tokens {
		names = append(names, token.HSMDevice.Name+": "+token.Serial+"@"+token.Path)
	}
	slices.Sort(names)
	return names
}

// matchCase is what is found on a node for HSMDevices.
type matchCase struct {
	devices    []sysfstest.USB
	hsmDevices []*v1alpha1.HSMDevice
	last       []report.Entry
	want       []string
}

func (test matchCase) run(t *testing.T) {
	t.Parallel()
	tree := newTree(t, test.devices...)
	must(t, tree.DeviceFile("1-1", nullNumber, "ttyACM0"))
	matcher := newMatcher(t, sysfs.Host{Sys: tree.Sys, Dev: "/dev"})
	labels := map[string]string{"hsm": "true", "zone": ""}
	entries, tokens := matcher.Match(t.Context(), test.hsmDevices, labels, test.last, now)
	var got []string
	for _, entry := range entries {
		got = append(got, brief(entry))
		if entry.ReportingNode != node || entry.HSMDeviceNamespace != "hsm-system" || entry.ObservedGeneration != 7 || !entry.LastReportTime.Equal(&now) {
			t.Errorf("got %+v", entry)
		}
		for _, device := range entry.DiscoveredDevices {
			if !device.LastSeen.Equal(&now) || (device.Reason == "") != (device.Message == "") {
				t.Errorf("got %+v", device)
			}
		}
	}
	if !slices.Equal(got, test.want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(test.want, "\n  "))
	}
	if got, want := access(tokens), usable(entries); !slices.Equal(got, want) {
		t.Errorf("gives access to %q, and reports as usable %q", got, want)
	}
	if value, err := report.Encode(entries); err != nil {
		t.Error(err)
	} else if _, err := report.Decode(value); err != nil {
		t.Error(err)
	}
	slices.Reverse(test.hsmDevices)
	if again, _ := matcher.Match(t.Context(), test.hsmDevices, labels, test.last, now); !report.Same(again, entries) {
		t.Error("the order in which HSMDevices are listed matters")
	}
}

func runMatches(t *testing.T, tests map[string]matchCase) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, test.run)
	}
}

// created is an HSMDevice that was created so many hours ago.
func created(name string, age int, spec v1alpha1.HSMDeviceSpec) *v1alpha1.HSMDevice {
	device := hsmDevice(name, spec)
	device.CreationTimestamp = metav1.NewTime(now.Add(-time.Duration(age) * time.Hour))
	return device
}

func TestMatchByIdentity(t *testing.T) {
	t.Parallel()
	usb := v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", "")}
	upper := v1alpha1.HSMDeviceSpec{Discovery: byUSB("2E8A", "10FD", "")}
	odd := pico(1, "E1")
	odd.BusNumber = ""
	runMatches(t, map[string]matchCase{
		"nothing asked for": {devices: []sysfstest.USB{pico(1, "E1")}, want: nil},
		"nothing there":     {hsmDevices: []*v1alpha1.HSMDevice{hsmDevice("a", usb)}, want: []string{"a:"}},
		"by ids": {
			devices:    []sysfstest.USB{pico(2, "E2"), pico(1, "E1"), nitrokey(3, "N3")},
			hsmDevices: []*v1alpha1.HSMDevice{hsmDevice("a", upper)},
			want:       []string{"a: E1@/dev/bus/usb/001/001 E2@/dev/bus/usb/001/002"},
		},
		"by serial": {
			devices:    []sysfstest.USB{pico(2, "E2"), pico(1, "E1")},
			hsmDevices: []*v1alpha1.HSMDevice{hsmDevice("a", v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", "E2")})},
			want:       []string{"a: E2@/dev/bus/usb/001/002"},
		},
		"serials that are no identity": {
			devices:    []sysfstest.USB{pico(1, ""), pico(2, "é"), pico(3, strings.Repeat("1", 127)), pico(4, "twin"), pico(5, "twin"), pico(6, "good")},
			hsmDevices: []*v1alpha1.HSMDevice{hsmDevice("a", usb)},
			want: []string{"a: good@/dev/bus/usb/001/006 @/dev/bus/usb/001/001!SerialMissing @/dev/bus/usb/001/002!SerialInvalid @/dev/bus/usb/001/003!SerialInvalid " +
				"twin@/dev/bus/usb/001/004!SerialAmbiguous twin@/dev/bus/usb/001/005!SerialAmbiguous"},
		},
		"the same serial number in two HSMDevices": {
			devices: []sysfstest.USB{pico(1, "twin"), nitrokey(2, "twin"), nitrokey(3, "N3")},
			hsmDevices: []*v1alpha1.HSMDevice{
				hsmDevice("pico", usb),
				hsmDevice("smart", v1alpha1.HSMDeviceSpec{DeviceType: v1alpha1.DeviceTypeSmartCardHSM, Discovery: auto}),
			},
			want: []string{"pico: twin@/dev/bus/usb/001/001!SerialAmbiguous", "smart: N3@/dev/bus/usb/001/003 twin@/dev/bus/usb/001/002!SerialAmbiguous"},
		},
		"path unknown": {
			devices:    []sysfstest.USB{odd},
			hsmDevices: []*v1alpha1.HSMDevice{hsmDevice("a", usb)},
			want:       []string{"a: E1@!PathUnknown"},
		},
	})
}

// TestMatchTheRightOne is of devices that more than one HSMDevice could have.
func TestMatchTheRightOne(t *testing.T) {
	t.Parallel()
	usb := v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", "")}
	unnamed := nitrokey(3, "N3")
	unnamed.Product = ""
	reader := pico(4, "R1")
	reader.VendorID, reader.ProductID = "08e6", "3437"
	runMatches(t, map[string]matchCase{
		"known tokens by type": {
			devices: []sysfstest.USB{pico(1, "E1"), nitrokey(2, "N2"), unnamed, reader},
			hsmDevices: []*v1alpha1.HSMDevice{
				created("pico", 2, v1alpha1.HSMDeviceSpec{Discovery: auto}),
				created("smart", 1, v1alpha1.HSMDeviceSpec{DeviceType: v1alpha1.DeviceTypeSmartCardHSM, Discovery: auto}),
			},
			// Nothing tells a Pico from a Nitrokey without its product string: the older HSMDevice has it.
			want: []string{"pico: E1@/dev/bus/usb/001/001 N3@/dev/bus/usb/001/003", "smart: N2@/dev/bus/usb/001/002 N3@/dev/bus/usb/001/003!TakenByOther"},
		},
		"the more exact HSMDevice has the device": {
			devices: []sysfstest.USB{pico(1, "E1"), pico(2, "E2"), nitrokey(3, "N3")},
			hsmDevices: []*v1alpha1.HSMDevice{
				created("any", 9, v1alpha1.HSMDeviceSpec{DeviceType: v1alpha1.DeviceTypeGeneric, Discovery: auto}),
				created("auto", 8, v1alpha1.HSMDeviceSpec{Discovery: auto}),
				created("ids", 7, usb),
				created("one", 6, v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", "E2")}),
			},
			want: []string{
				"any: N3@/dev/bus/usb/001/003 E1@/dev/bus/usb/001/001!TakenByOther E2@/dev/bus/usb/001/002!TakenByOther",
				"auto: E1@/dev/bus/usb/001/001!TakenByOther E2@/dev/bus/usb/001/002!TakenByOther",
				"ids: E1@/dev/bus/usb/001/001 E2@/dev/bus/usb/001/002!TakenByOther",
				"one: E2@/dev/bus/usb/001/002",
			},
		},
		"then the older, then the first by name": {
			devices:    []sysfstest.USB{pico(1, "E1")},
			hsmDevices: []*v1alpha1.HSMDevice{created("b", 1, usb), created("a", 1, usb), created("c", 2, usb)},
			want: []string{
				"a: E1@/dev/bus/usb/001/001!TakenByOther", "b: E1@/dev/bus/usb/001/001!TakenByOther", "c: E1@/dev/bus/usb/001/001",
			},
		},
		"an HSMDevice for other nodes has no device": {
			devices: []sysfstest.USB{pico(1, "E1")},
			hsmDevices: []*v1alpha1.HSMDevice{
				hsmDevice("a", v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", "E1"), NodeSelector: map[string]string{"disk": "ssd", "hsm": "true"}}),
				hsmDevice("b", v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", ""), NodeSelector: map[string]string{"hsm": "true", "zone": ""}}),
			},
			want: []string{"a: not selected", "b: E1@/dev/bus/usb/001/001"},
		},
	})
}

func TestMatchLimits(t *testing.T) {
	t.Parallel()
	null, err := os.Stat("/dev/null")
	must(t, err)
	nullPermissions := fmt.Sprintf("%04o", sysfs.Permissions(null.Mode()))
	usb := v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", "")}
	runMatches(t, map[string]matchCase{
		"maxDevices": {
			devices:    []sysfstest.USB{pico(1, "E1"), pico(2, "E2"), pico(3, "E3"), pico(4, "")},
			hsmDevices: []*v1alpha1.HSMDevice{hsmDevice("a", v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", ""), MaxDevices: 2})},
			want: []string{"a: E1@/dev/bus/usb/001/001 E2@/dev/bus/usb/001/002 @/dev/bus/usb/001/004!SerialMissing " +
				"E3@/dev/bus/usb/001/003!OverMaxDevices"},
		},
		"maxDevices spares tokens in service": {
			devices:    []sysfstest.USB{pico(1, "E1"), pico(2, "E2"), pico(3, "E3")},
			hsmDevices: []*v1alpha1.HSMDevice{hsmDevice("a", v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", ""), MaxDevices: 2})},
			last: []report.Entry{{HSMDeviceNamespace: "hsm-system", HSMDeviceName: "a", DiscoveredDevices: []report.Device{
				{SerialNumber: "E3"}, {SerialNumber: "E1", Reason: report.ReasonOverMaxDevices}, {SerialNumber: "E2"}, {SerialNumber: "gone"},
			}}},
			want: []string{"a: E2@/dev/bus/usb/001/002 E3@/dev/bus/usb/001/003 E1@/dev/bus/usb/001/001!OverMaxDevices"},
		},
		"by device file": {
			devices: []sysfstest.USB{pico(1, "E1")},
			hsmDevices: []*v1alpha1.HSMDevice{
				hsmDevice("any", v1alpha1.HSMDeviceSpec{DeviceType: v1alpha1.DeviceTypeGeneric, Discovery: auto}),
				hsmDevice("file", v1alpha1.HSMDeviceSpec{Discovery: byPath("/dev/nul[l]", nullPermissions)}),
			},
			want: []string{"any: E1@/dev/bus/usb/001/001!TakenByOther", "file: E1@/dev/ttyACM0"},
		},
		"permissions of the device file": {
			devices: []sysfstest.USB{pico(1, "E1")},
			hsmDevices: []*v1alpha1.HSMDevice{
				hsmDevice("a", v1alpha1.HSMDeviceSpec{Discovery: byPath("/dev/null", "0123")}),
			},
			want: []string{"a: E1@/dev/ttyACM0!PermissionsDiffer"},
		},
		"HSMDevices that cannot be": {
			devices: []sysfstest.USB{pico(1, "E1")},
			hsmDevices: []*v1alpha1.HSMDevice{
				hsmDevice("a", v1alpha1.HSMDeviceSpec{}),
				hsmDevice("b", v1alpha1.HSMDeviceSpec{Discovery: &v1alpha1.Discovery{}}),
				hsmDevice("c", v1alpha1.HSMDeviceSpec{Discovery: byPath("/etc/passwd", "")}),
				hsmDevice("d", v1alpha1.HSMDeviceSpec{Discovery: byPath("/dev/[", "")}),
				hsmDevice("e", usb),
			},
			want: []string{"a: error", "b: error", "c: error", "d: error", "e: E1@/dev/bus/usb/001/001"},
		},
	})
}

// TestMatchUnknown: what cannot be seen is not reported as gone.
func TestMatchUnknown(t *testing.T) {
	t.Parallel()
	tree := newTree(t, pico(1, "E1"))
	matcher := newMatcher(t, tree.Host)
	hsmDevices := []*v1alpha1.HSMDevice{
		hsmDevice("a", v1alpha1.HSMDeviceSpec{Discovery: auto}),
		hsmDevice("b", v1alpha1.HSMDeviceSpec{Discovery: auto, NodeSelector: map[string]string{"no": "such"}}),
	}
	before, _ := matcher.Match(t.Context(), hsmDevices, nil, nil, now)
	must(t, os.RemoveAll(filepath.Join(tree.Sys, "bus")))
	later := metav1.NewTime(now.Add(time.Minute))
	after, tokens := matcher.Match(t.Context(), hsmDevices, nil, before, later)
	if got, want := brief(after[0]), "a: error E1@/dev/bus/usb/001/001"; got != want || after[0].Error == "" {
		t.Errorf("got %q (%s), want %q", got, after[0].Error, want)
	}
	if !after[0].LastReportTime.Equal(&later) || !after[0].DiscoveredDevices[0].LastSeen.Equal(&now) {
		t.Errorf("got times %+v", after[0])
	}
	if len(tokens) != 0 {
		t.Errorf("gives access to %v, of which nothing is known", tokens)
	}
	if got, want := brief(after[1]), "b: not selected"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMatchNotADevice(t *testing.T) {
	t.Parallel()
	tree := newTree(t)
	must(t, os.WriteFile(filepath.Join(tree.Dev, "hsm0"), nil, 0o600))
	hsmDevices := []*v1alpha1.HSMDevice{hsmDevice("a", v1alpha1.HSMDeviceSpec{Discovery: byPath("/dev/hsm*", "0600")})}
	entries, _ := newMatcher(t, tree.Host).Match(t.Context(), hsmDevices, nil, nil, now)
	if got, want := brief(entries[0]), "a: @/dev/hsm0!NotADevice"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
