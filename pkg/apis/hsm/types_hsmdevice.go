// SPDX-License-Identifier: Apache-2.0

package hsm

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMDevice describes tokens of one kind and how to reach them.
type HSMDevice struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Spec HSMDeviceSpec
}

// HSMDeviceSpec says which tokens are meant and how they are used.
type HSMDeviceSpec struct {
	DeviceType   DeviceType
	Discovery    *Discovery
	PKCS11       *PKCS11
	NodeSelector map[string]string
	MaxDevices   int32
	Mirroring    *DeviceMirroring
}

// DeviceType is a family of tokens.
type DeviceType string

// The device types.
const (
	DeviceTypePicoHSM      DeviceType = "PicoHSM"
	DeviceTypeSmartCardHSM DeviceType = "SmartCard-HSM"
	DeviceTypeGeneric      DeviceType = "Generic"
)

// Discovery has exactly one member set.
type Discovery struct {
	USB           *USBDiscovery
	DevicePath    *DevicePathDiscovery
	AutoDiscovery bool
}

// USBDiscovery selects by USB descriptor.
type USBDiscovery struct {
	VendorID     string
	ProductID    string
	SerialNumber string
}

// DevicePathDiscovery selects by device file.
type DevicePathDiscovery struct {
	Path        string
	Permissions string
}

// PKCS11 says how an agent reaches a token.
type PKCS11 struct {
	LibraryPath   string
	SlotID        *int32
	TokenLabel    string
	PINSecret     *PINSecretReference
	AutoProvision bool
}

// PINSecretReference names the key of a core Secret that holds a PIN.
type PINSecretReference struct {
	Name      string
	Key       string
	Namespace string
}

// DeviceMirroring says how the tokens of one HSMDevice mirror each other.
type DeviceMirroring struct {
	Policy       MirroringPolicy
	SyncInterval int32
	TargetNodes  []string
	PrimaryNode  string
	AutoFailover *bool
}

// MirroringPolicy says what mirrors are used for.
type MirroringPolicy string

// The mirroring policies.
const (
	MirroringPolicyNone     MirroringPolicy = "None"
	MirroringPolicyReadOnly MirroringPolicy = "ReadOnly"
	MirroringPolicyActive   MirroringPolicy = "Active"
)

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMDeviceList is a list of HSMDevices.
type HSMDeviceList struct {
	metav1.TypeMeta
	metav1.ListMeta

	Items []HSMDevice
}
