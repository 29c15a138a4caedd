// SPDX-License-Identifier: Apache-2.0

package validation_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm"
)

func validDevice() *hsm.HSMDevice {
	return &hsm.HSMDevice{
		ObjectMeta: metav1.ObjectMeta{Name: "pico", Namespace: "hsm-system"},
		Spec: hsm.HSMDeviceSpec{
			DeviceType: hsm.DeviceTypePicoHSM,
			Discovery:  &hsm.Discovery{USB: &hsm.USBDiscovery{VendorID: "20a0", ProductID: "4230"}},
			PKCS11: &hsm.PKCS11{
				LibraryPath: "/usr/lib/opensc-pkcs11.so",
				SlotID:      new(int32(0)),
				TokenLabel:  "PicoHSM",
				PINSecret:   &hsm.PINSecretReference{Name: "pico-pin", Key: "pin", Namespace: "hsm-system"},
			},
			NodeSelector: map[string]string{"example.com/hsm": "pico"},
			MaxDevices:   1,
			Mirroring: &hsm.DeviceMirroring{
				Policy:       hsm.MirroringPolicyReadOnly,
				SyncInterval: 10,
				TargetNodes:  []string{"node-1", "node-2"},
				PrimaryNode:  "node-1",
				AutoFailover: new(true),
			},
		},
	}
}

func TestHSMDevice(t *testing.T) {
	t.Parallel()
	spec := func(change func(*hsm.HSMDeviceSpec)) func(*hsm.HSMDevice) {
		return func(d *hsm.HSMDevice) { change(&d.Spec) }
	}
	devicePath := func(path, permissions string) func(*hsm.HSMDevice) {
		return spec(func(s *hsm.HSMDeviceSpec) {
			s.Discovery = &hsm.Discovery{DevicePath: &hsm.DevicePathDiscovery{Path: path, Permissions: permissions}}
		})
	}
	testRules(t, "", validDevice, []rule[hsm.HSMDevice]{
		{name: "name is a DNS subdomain", object: func(d *hsm.HSMDevice) { d.Name = "P_ico" }, errs: []string{"Invalid value: metadata.name"}},
		{name: "deviceType is required", object: spec(func(s *hsm.HSMDeviceSpec) { s.DeviceType = "" }), errs: []string{"Required value: spec.deviceType"}},
		{name: "deviceType is known", object: spec(func(s *hsm.HSMDeviceSpec) { s.DeviceType = "SmartCardHSM" }), errs: []string{"Unsupported value: spec.deviceType"}},
		{name: "maxDevices is there after defaults", object: spec(func(s *hsm.HSMDeviceSpec) { s.MaxDevices = 0 }), errs: []string{"Required value: spec.maxDevices"}},
		{name: "maxDevices is at least 1", object: spec(func(s *hsm.HSMDeviceSpec) { s.MaxDevices = -1 }), errs: []string{"Invalid value: spec.maxDevices"}},
		{name: "nodeSelector has label keys", object: spec(func(s *hsm.HSMDeviceSpec) { s.NodeSelector = map[string]string{"a b": "c"} }), errs: []string{"Invalid value: spec.nodeSelector"}},
		{name: "nodeSelector has label values", object: spec(func(s *hsm.HSMDeviceSpec) { s.NodeSelector = map[string]string{"a": "b c"} }), errs: []string{"Invalid value: spec.nodeSelector[a]"}},

		{name: "discovery is required", object: spec(func(s *hsm.HSMDeviceSpec) { s.Discovery = nil }), errs: []string{"Required value: spec.discovery"}},
		{name: "discovery has a member", object: spec(func(s *hsm.HSMDeviceSpec) { s.Discovery = &hsm.Discovery{} }), errs: []string{"Invalid value: spec.discovery"}},
		{name: "discovery has one member", object: spec(func(s *hsm.HSMDeviceSpec) { s.Discovery.AutoDiscovery = true }), errs: []string{"Invalid value: spec.discovery"}},
		{name: "vendorId is required", object: spec(func(s *hsm.HSMDeviceSpec) { s.Discovery.USB.VendorID = "" }), errs: []string{"Required value: spec.discovery.usb.vendorId"}},
		{name: "vendorId is hexadecimal", object: spec(func(s *hsm.HSMDeviceSpec) { s.Discovery.USB.VendorID = "0x20a0" }), errs: []string{"Invalid value: spec.discovery.usb.vendorId"}},
		{name: "productId is required", object: spec(func(s *hsm.HSMDeviceSpec) { s.Discovery.USB.ProductID = "" }), errs: []string{"Required value: spec.discovery.usb.productId"}},
		{name: "productId is hexadecimal", object: spec(func(s *hsm.HSMDeviceSpec) { s.Discovery.USB.ProductID = "423g" }), errs: []string{"Invalid value: spec.discovery.usb.productId"}},
		{name: "serialNumber is one of USB", object: spec(func(s *hsm.HSMDeviceSpec) { s.Discovery.USB.SerialNumber = strings.Repeat("A", 127) }), errs: []string{"Too long: spec.discovery.usb.serialNumber"}},
		{name: "path is required", object: devicePath("", "0660"), errs: []string{"Required value: spec.discovery.devicePath.path"}},
		{name: "path is below /dev", object: devicePath("/etc/passwd", ""), errs: []string{"Invalid value: spec.discovery.devicePath.path"}},
		{name: "path does not climb", object: devicePath("/dev/../etc/passwd", ""), errs: []string{"Invalid value: spec.discovery.devicePath.path"}},
		{name: "path is a pattern", object: devicePath("/dev/ttyACM[", ""), errs: []string{"Invalid value: spec.discovery.devicePath.path"}},
		{name: "permissions are octal", object: devicePath("/dev/ttyACM*", "rw"), errs: []string{"Invalid value: spec.discovery.devicePath.permissions"}},

		{name: "libraryPath is required", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.LibraryPath = "" }), errs: []string{"Required value: spec.pkcs11.libraryPath"}},
		{name: "libraryPath is absolute", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.LibraryPath = "opensc-pkcs11.so" }), errs: []string{"Invalid value: spec.pkcs11.libraryPath"}},
		{name: "libraryPath does not climb", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.LibraryPath = "/usr/../tmp/lib.so" }), errs: []string{"Invalid value: spec.pkcs11.libraryPath"}},
		{name: "slotId is not negative", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.SlotID = new(int32(-1)) }), errs: []string{"Invalid value: spec.pkcs11.slotId"}},
		{name: "tokenLabel is one of PKCS#11", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.TokenLabel = strings.Repeat("A", 33) }), errs: []string{"Too long: spec.pkcs11.tokenLabel"}},
		{name: "pinSecret is required", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.PINSecret = nil }), errs: []string{"Required value: spec.pkcs11.pinSecret"}},
		{name: "pinSecret name is required", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.PINSecret.Name = "" }), errs: []string{"Required value: spec.pkcs11.pinSecret.name"}},
		{name: "pinSecret name is a DNS subdomain", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.PINSecret.Name = "P_in" }), errs: []string{"Invalid value: spec.pkcs11.pinSecret.name"}},
		{name: "pinSecret key is there after defaults", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.PINSecret.Key = "" }), errs: []string{"Required value: spec.pkcs11.pinSecret.key"}},
		{name: "pinSecret key is one of a Secret", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.PINSecret.Key = "a/b" }), errs: []string{"Invalid value: spec.pkcs11.pinSecret.key"}},
		{name: "pinSecret namespace is a DNS label", object: spec(func(s *hsm.HSMDeviceSpec) { s.PKCS11.PINSecret.Namespace = "a.b" }), errs: []string{"Invalid value: spec.pkcs11.pinSecret.namespace"}},

		{name: "mirroring policy is there after defaults", object: spec(func(s *hsm.HSMDeviceSpec) { s.Mirroring.Policy = "" }), errs: []string{"Required value: spec.mirroring.policy"}},
		{name: "mirroring policy is known", object: spec(func(s *hsm.HSMDeviceSpec) { s.Mirroring.Policy = "Both" }), errs: []string{"Unsupported value: spec.mirroring.policy"}},
		{name: "mirroring syncInterval is there after defaults", object: spec(func(s *hsm.HSMDeviceSpec) { s.Mirroring.SyncInterval = 0 }), errs: []string{"Required value: spec.mirroring.syncInterval"}},
		{name: "mirroring syncInterval is at least 10", object: spec(func(s *hsm.HSMDeviceSpec) { s.Mirroring.SyncInterval = 9 }), errs: []string{"Invalid value: spec.mirroring.syncInterval"}},
		{name: "target node is a DNS subdomain", object: spec(func(s *hsm.HSMDeviceSpec) { s.Mirroring.TargetNodes[1] = "N_ode" }), errs: []string{"Invalid value: spec.mirroring.targetNodes[1]"}},
		{name: "target node is named once", object: spec(func(s *hsm.HSMDeviceSpec) { s.Mirroring.TargetNodes[1] = "node-1" }), errs: []string{"Duplicate value: spec.mirroring.targetNodes[1]"}},
		{name: "primary node is a DNS subdomain", object: spec(func(s *hsm.HSMDeviceSpec) {
			s.Mirroring.TargetNodes, s.Mirroring.PrimaryNode = nil, "N_ode"
		}), errs: []string{"Invalid value: spec.mirroring.primaryNode"}},
		{name: "primary node is a target node", object: spec(func(s *hsm.HSMDeviceSpec) { s.Mirroring.PrimaryNode = "node-3" }), errs: []string{"Invalid value: spec.mirroring.primaryNode"}},
		{name: "autoFailover is there after defaults", object: spec(func(s *hsm.HSMDeviceSpec) { s.Mirroring.AutoFailover = nil }), errs: []string{"Required value: spec.mirroring.autoFailover"}},
	})
}

func TestHSMDeviceAccepts(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*hsm.HSMDeviceSpec){
		"auto discovery": func(s *hsm.HSMDeviceSpec) { s.Discovery = &hsm.Discovery{AutoDiscovery: true} },
		"device path": func(s *hsm.HSMDeviceSpec) {
			s.Discovery = &hsm.Discovery{DevicePath: &hsm.DevicePathDiscovery{Path: "/dev/ttyACM[0-9]*", Permissions: "0660"}}
		},
		"discovery only": func(s *hsm.HSMDeviceSpec) { s.PKCS11, s.Mirroring = nil, nil },
		"other type":     func(s *hsm.HSMDeviceSpec) { s.DeviceType = hsm.DeviceTypeSmartCardHSM },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			device := validDevice()
			change(&device.Spec)
			if errs := validate(t, device, nil, ""); len(errs) != 0 {
				t.Errorf("refused: %v", errs)
			}
		})
	}
}
