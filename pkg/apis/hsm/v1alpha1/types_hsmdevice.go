// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +genclient
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMDevice describes hardware security modules (tokens) of one kind: how to
// find them on nodes, and how an agent reaches them. It is only a description and
// has no status: the HSMPool of the same name shows what was found. It can be
// read and written while no token is plugged in.
type HSMDevice struct {
	// +k8s:opaqueType
	metav1.TypeMeta `json:",inline"`
	// metadata is standard object metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:opaqueType
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which tokens are meant and how to use them. Written by users.
	// +optional
	Spec HSMDeviceSpec `json:"spec,omitempty"`
}

// HSMDeviceSpec says which tokens are meant and how to use them.
type HSMDeviceSpec struct {
	// deviceType is the family of the tokens: PicoHSM, SmartCard-HSM or Generic.
	// Their agents keep to the limits of that family. Written by users.
	// +required
	// +k8s:required
	DeviceType DeviceType `json:"deviceType"`

	// discovery says how to find the tokens on a node. Set exactly one of its
	// members. Written by users.
	// +required
	// +k8s:required
	Discovery *Discovery `json:"discovery"`

	// pkcs11 says how an agent reaches the tokens. Without it, tokens are found and
	// listed, but no agent serves them. Written by users.
	// +optional
	// +k8s:optional
	PKCS11 *PKCS11 `json:"pkcs11,omitempty"`

	// nodeSelector limits discovery to nodes that have all these labels.
	// Default: none, which means every node. Written by users.
	// +optional
	// +k8s:optional
	// +k8s:eachKey=+k8s:format=k8s-label-key
	// +k8s:eachVal=+k8s:format=k8s-label-value
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// maxDevices is the largest number of tokens to serve. Further tokens that match
	// are reported, but not served. At least 1.
	// Default: 10. Written by users.
	// +optional
	// +default=10
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:validation:minimum=1
	MaxDevices int32 `json:"maxDevices,omitempty"`

	// mirroring says how the tokens mirror each other. This version stores it, and
	// mirrors nothing.
	// Default: not set. Written by users.
	// +optional
	// +k8s:optional
	Mirroring *DeviceMirroring `json:"mirroring,omitempty"`
}

// DeviceType is a family of tokens.
// +enum
// +k8s:enum
type DeviceType string

const (
	// DeviceTypePicoHSM is a Raspberry Pi Pico or ESP32 with the Pico HSM firmware.
	DeviceTypePicoHSM DeviceType = "PicoHSM"
	// DeviceTypeSmartCardHSM is a SmartCard-HSM or Nitrokey HSM 2.
	DeviceTypeSmartCardHSM DeviceType = "SmartCard-HSM"
	// DeviceTypeGeneric is any other token with a PKCS#11 module.
	DeviceTypeGeneric DeviceType = "Generic"
)

// Discovery says how to find tokens on a node. Exactly one member is set.
type Discovery struct {
	// usb finds tokens by their USB descriptor.
	// +optional
	// +k8s:optional
	// +k8s:unionMember
	USB *USBDiscovery `json:"usb,omitempty"`

	// devicePath finds tokens by their device file.
	// +optional
	// +k8s:optional
	// +k8s:unionMember
	DevicePath *DevicePathDiscovery `json:"devicePath,omitempty"`

	// autoDiscovery finds tokens by the USB identities known for the deviceType.
	// +optional
	// +k8s:optional
	// +k8s:unionMember
	AutoDiscovery bool `json:"autoDiscovery,omitempty"`
}

// USBDiscovery selects devices by their USB descriptor.
type USBDiscovery struct {
	// vendorId is the USB vendor id: 4 hexadecimal digits, such as 20a0.
	// +required
	// +k8s:required
	VendorID string `json:"vendorId"`

	// productId is the USB product id: 4 hexadecimal digits, such as 4230.
	// +required
	// +k8s:required
	ProductID string `json:"productId"`

	// serialNumber selects one device by its serial number. At most 126
	// characters, the limit of a USB string.
	// Default: empty, which means every device of this vendor and product.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=126
	// +k8s:validation:maxLength=126
	SerialNumber string `json:"serialNumber,omitempty"`
}

// DevicePathDiscovery selects devices by their device file.
type DevicePathDiscovery struct {
	// path is an absolute path below /dev, or a pattern with *, ? and [ ], such as
	// /dev/ttyACM*.
	// +required
	// +k8s:required
	Path string `json:"path"`

	// permissions are the octal permissions that the device file must have, such as
	// 0660. A file with other permissions is reported as unavailable.
	// Default: empty; permissions are not checked.
	// +optional
	// +k8s:optional
	Permissions string `json:"permissions,omitempty"`
}

// PKCS11 says how an agent reaches a token.
type PKCS11 struct {
	// libraryPath is the absolute path of the PKCS#11 module in the agent's
	// container, such as /usr/lib/x86_64-linux-gnu/opensc-pkcs11.so.
	// +required
	// +k8s:required
	LibraryPath string `json:"libraryPath"`

	// slotId is the PKCS#11 slot of the token. Slots change their numbers when
	// readers change: tokenLabel, or the serial number that discovery finds, is safer.
	// Default: not set; any slot.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	// +k8s:validation:minimum=0
	SlotID *int32 `json:"slotId,omitempty"`

	// tokenLabel is the PKCS#11 label that the token must have, at most 32 bytes.
	// Default: empty; any label.
	// +optional
	// +k8s:optional
	// +k8s:maxBytes=32
	// +k8s:validation:maxLength=32
	TokenLabel string `json:"tokenLabel,omitempty"`

	// pinSecret names the Secret that holds the user PIN.
	// +required
	// +k8s:required
	PINSecret *PINSecretReference `json:"pinSecret"`

	// autoProvision lets the agent initialise a blank token and make a store on it. A
	// token with a user PIN is never initialised.
	// Default: false.
	// +optional
	// +default=false
	// +k8s:optional
	AutoProvision bool `json:"autoProvision,omitempty"`
}

// PINSecretReference names a key of a Secret.
type PINSecretReference struct {
	// name is the name of the Secret.
	// +required
	// +k8s:required
	// +k8s:format=k8s-long-name
	Name string `json:"name"`

	// key is the key of the Secret's data that holds the PIN.
	// Default: pin.
	// +optional
	// +default="pin"
	// +k8s:optional
	Key string `json:"key,omitempty"`

	// namespace is the namespace of the Secret.
	// Default: empty, which means that of the HSMDevice.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-short-name
	Namespace string `json:"namespace,omitempty"`
}

// DeviceMirroring says how the tokens of one HSMDevice mirror each other. This
// version stores it, and mirrors nothing.
type DeviceMirroring struct {
	// policy says what mirrors are for. None: there are no mirrors. ReadOnly: they
	// serve reads. Active: they also take over writes.
	// Default: None. Written by users.
	// +optional
	// +default="None"
	// +k8s:optional
	Policy MirroringPolicy `json:"policy,omitempty"`

	// syncInterval is the time in seconds between two full comparisons of the
	// tokens. It is a safety net: changes are mirrored at once. At least 10.
	// Default: 300. Written by users.
	// +optional
	// +default=300
	// +k8s:optional
	// +k8s:minimum=10
	// +k8s:validation:minimum=10
	SyncInterval int32 `json:"syncInterval,omitempty"`

	// targetNodes are the names of the nodes whose tokens take part.
	// Default: none, which means every node with a token. Written by users.
	// +optional
	// +listType=set
	// +k8s:optional
	// +k8s:listType=set
	// +k8s:eachVal=+k8s:format=k8s-long-name
	TargetNodes []string `json:"targetNodes,omitempty"`

	// primaryNode is the name of the node whose token takes writes while it can. If
	// targetNodes is set, it must be one of them.
	// Default: empty; any node. Written by users.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-long-name
	PrimaryNode string `json:"primaryNode,omitempty"`

	// autoFailover lets another token take writes when the primary one is lost.
	// Default: true. Written by users.
	// +optional
	// +default=true
	// +k8s:optional
	AutoFailover *bool `json:"autoFailover,omitempty"`
}

// MirroringPolicy says what mirrors are for.
// +enum
// +k8s:enum
type MirroringPolicy string

const (
	// MirroringPolicyNone: there are no mirrors.
	MirroringPolicyNone MirroringPolicy = "None"
	// MirroringPolicyReadOnly: mirrors serve reads.
	MirroringPolicyReadOnly MirroringPolicy = "ReadOnly"
	// MirroringPolicyActive: mirrors serve reads and may take over writes.
	MirroringPolicyActive MirroringPolicy = "Active"
)

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMDeviceList is a list of HSMDevices.
type HSMDeviceList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// items are the HSMDevices.
	Items []HSMDevice `json:"items"`
}
