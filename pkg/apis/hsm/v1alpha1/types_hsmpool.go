// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +genclient
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:supportsSubresource="/status"

// HSMPool is the set of hardware security modules (tokens) that were found for
// HSMDevices. The controller creates one for each HSMDevice, which owns it. Its
// status shows the health and the free space of the tokens.
type HSMPool struct {
	// +k8s:opaqueType
	metav1.TypeMeta `json:",inline"`
	// metadata is standard object metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:opaqueType
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says whose tokens form the pool. Written by the controller when it
	// creates the pool, then by users.
	// +optional
	Spec HSMPoolSpec `json:"spec,omitempty"`

	// status shows what discovery and the agents reported. Written by the controller.
	// +optional
	Status HSMPoolStatus `json:"status,omitempty"`
}

// HSMPoolSpec says whose tokens form the pool.
type HSMPoolSpec struct {
	// hsmDeviceRefs are the names of the HSMDevices, of the same namespace, whose
	// tokens form the pool. At least one. Written by the controller, then by users.
	// +required
	// +listType=set
	// +k8s:required
	// +k8s:listType=set
	// +k8s:eachVal=+k8s:format=k8s-long-name
	HSMDeviceRefs []string `json:"hsmDeviceRefs"`

	// gracePeriod is how long the last report of a discovery pod counts: a duration
	// of more than zero, such as 90s or 5m.
	// Default: 5m. Written by users.
	// +optional
	// +default="5m"
	// +k8s:optional
	// +k8s:opaqueType
	GracePeriod *metav1.Duration `json:"gracePeriod,omitempty"`

	// mirroring says whether the tokens mirror each other. This version stores it,
	// and mirrors nothing.
	// Default: not set. Written by users.
	// +optional
	// +k8s:optional
	Mirroring *PoolMirroring `json:"mirroring,omitempty"`
}

// PoolMirroring says whether the tokens of a pool mirror each other.
type PoolMirroring struct {
	// enabled lets the tokens mirror each other.
	// Default: false. Written by users.
	// +optional
	// +default=false
	// +k8s:optional
	Enabled bool `json:"enabled,omitempty"`

	// primaryRole is the value of status.members[].role for the token that takes
	// writes: at most 63 letters, digits, '-', '_' and '.'.
	// Default: primary. Written by users.
	// +optional
	// +default="primary"
	// +k8s:optional
	// +k8s:format=k8s-label-value
	// +k8s:validation:maxLength=63
	PrimaryRole string `json:"primaryRole,omitempty"`
}

// HSMPoolStatus shows what discovery and the agents reported. Counts are there also when
// they are 0, so that kubectl wait can wait for that.
type HSMPoolStatus struct {
	// phase sums up the pool. Pending: there is no report yet. Aggregating: reports
	// of discovery pods or of agents are coming in. Ready: every expected pod has
	// reported, every token is available, and agents serve those that they should.
	// Partial: some pods or tokens are missing. Error: no token can be used. Written
	// by the controller.
	// +optional
	// +k8s:optional
	Phase PoolPhase `json:"phase,omitempty"`

	// totalDevices is the number of tokens found: the length of aggregatedDevices.
	// Written by the controller.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	TotalDevices int32 `json:"totalDevices"`

	// availableDevices is the number of tokens in aggregatedDevices that are
	// available. Written by the controller.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	AvailableDevices int32 `json:"availableDevices"`

	// expectedPods is the number of discovery pods that should report: all that the
	// DaemonSet wants, except on nodes that the HSMDevices do not select. Written by
	// the controller.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	ExpectedPods int32 `json:"expectedPods"`

	// reportingPods are the discovery pods that have reported, one for each node. A
	// deleted pod stays listed until its successor reports, or until its last report
	// is older than gracePeriod. Written by the controller.
	// +optional
	// +listType=map
	// +listMapKey=podName
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=podName
	ReportingPods []ReportingPod `json:"reportingPods,omitempty"`

	// aggregatedDevices are the tokens that discovery has found. A token that is gone
	// stays listed for gracePeriod, as not available. Written by the controller.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	AggregatedDevices []AggregatedDevice `json:"aggregatedDevices,omitempty"`

	// members are the tokens as their agents see them. A change of state shows at
	// once, a change of figures alone once a minute. Written by the controller, from
	// what the agents report.
	// +optional
	// +listType=map
	// +listMapKey=serialNumber
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=serialNumber
	Members []PoolMember `json:"members,omitempty"`

	// lastAggregationTime is when a report last changed this status. Written by the
	// controller.
	// +optional
	// +k8s:optional
	// +k8s:opaqueType
	LastAggregationTime *metav1.Time `json:"lastAggregationTime,omitempty"`

	// observedGeneration is the metadata.generation that the other fields describe.
	// Written by the controller.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, Reporting, DevicesAvailable and AgentsServing, which are True
	// when all is well; NeedsRelayout, FirmwareKnownBad and ShortAPDUs, which are True when
	// something is to be done before it is too late. Written by the controller.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	// +k8s:optional
	// +k8s:eachVal=+k8s:opaqueType
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
}

// The types of an HSMPool's conditions.
const (
	// HSMPoolReady is true while the phase is Ready.
	HSMPoolReady = "Ready"
	// HSMPoolReporting is true while every expected discovery pod reports, without an
	// error.
	HSMPoolReporting = "Reporting"
	// HSMPoolDevicesAvailable is true while every token found is available.
	HSMPoolDevicesAvailable = "DevicesAvailable"
	// HSMPoolAgentsServing is true while every token found is served by its agent. It
	// is absent if no HSMDevice of the pool has spec.pkcs11.
	HSMPoolAgentsServing = "AgentsServing"

	// HSMPoolNeedsRelayout is true while a token refuses writes although it seems to have
	// room. It does not make the pool less Ready, and is absent with AgentsServing.
	HSMPoolNeedsRelayout = "NeedsRelayout"
	// HSMPoolFirmwareKnownBad is true while a token has a firmware that is known to lose
	// data. It does not make the pool less Ready, and is absent with AgentsServing.
	HSMPoolFirmwareKnownBad = "FirmwareKnownBad"
	// HSMPoolShortAPDUs is true while a token takes short APDUs only, which wears it out
	// twice as fast. It does not make the pool less Ready, and is absent with
	// AgentsServing.
	HSMPoolShortAPDUs = "ShortAPDUs"
)

// PoolPhase sums up a pool in one word.
// +enum
// +k8s:enum
type PoolPhase string

const (
	// PoolPhasePending: there is no report yet.
	PoolPhasePending PoolPhase = "Pending"
	// PoolPhaseAggregating: reports of discovery pods or of agents are coming in.
	PoolPhaseAggregating PoolPhase = "Aggregating"
	// PoolPhaseReady: every expected pod has reported, every token is available and served.
	PoolPhaseReady PoolPhase = "Ready"
	// PoolPhasePartial: some pods or tokens are missing.
	PoolPhasePartial PoolPhase = "Partial"
	// PoolPhaseError: no token can be used.
	PoolPhaseError PoolPhase = "Error"
)

// ReportingPod is a discovery pod and its last report.
type ReportingPod struct {
	// podName is the name of the discovery pod.
	// +required
	// +k8s:required
	// +k8s:format=k8s-long-name
	PodName string `json:"podName"`

	// nodeName is the name of the node that it runs on.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-long-name
	NodeName string `json:"nodeName,omitempty"`

	// devicesFound is the number of tokens in its report.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	DevicesFound int32 `json:"devicesFound,omitempty"`

	// lastReportTime is when it last reported something new. A report without news
	// does not move it.
	// +optional
	// +k8s:optional
	// +k8s:opaqueType
	LastReportTime *metav1.Time `json:"lastReportTime,omitempty"`

	// discoveryStatus is how far it is: discovering, completed or error.
	// +optional
	// +k8s:optional
	DiscoveryStatus DiscoveryStatus `json:"discoveryStatus,omitempty"`

	// fresh is true while the report is younger than gracePeriod.
	// +optional
	// +k8s:optional
	Fresh bool `json:"fresh,omitempty"`

	// error says why discovery failed; empty if it did not.
	// +optional
	// +k8s:optional
	Error string `json:"error,omitempty"`
}

// DiscoveryStatus is how far a discovery pod is.
// +enum
// +k8s:enum
type DiscoveryStatus string

const (
	// DiscoveryStatusDiscovering: the pod is still looking.
	DiscoveryStatusDiscovering DiscoveryStatus = "discovering"
	// DiscoveryStatusCompleted: the report is whole.
	DiscoveryStatusCompleted DiscoveryStatus = "completed"
	// DiscoveryStatusError: discovery failed.
	DiscoveryStatusError DiscoveryStatus = "error"
)

// AggregatedDevice is a token that discovery has found.
type AggregatedDevice struct {
	// serialNumber is the serial number of the token; empty if it has none.
	// +optional
	// +k8s:optional
	SerialNumber string `json:"serialNumber,omitempty"`

	// nodeName is the name of the node that it is plugged into.
	// +required
	// +k8s:required
	// +k8s:format=k8s-long-name
	NodeName string `json:"nodeName"`

	// devicePath is the path of its device file on that node; empty if the kernel
	// gives none. It changes when the token is plugged in again.
	// +optional
	// +k8s:optional
	DevicePath string `json:"devicePath,omitempty"`

	// hsmDeviceName is the name of the HSMDevice that describes it, in the namespace
	// of the pool.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-long-name
	HSMDeviceName string `json:"hsmDeviceName,omitempty"`

	// shortAPDUs is true if the token is a smart card reader that takes short APDUs
	// only, by its USB descriptor. Each value is then written in pieces.
	// +optional
	// +k8s:optional
	ShortAPDUs bool `json:"shortAPDUs,omitempty"`

	// available is true if the token is there and an agent may use it.
	// +optional
	// +k8s:optional
	Available bool `json:"available,omitempty"`

	// reason says in one word why the token is not available; empty if it is. It is a
	// reason of the discovery report, such as SerialMissing or PermissionsDiffer, or
	// one of the pool. Unplugged: it is not there any more. NodeNotReporting: its node
	// has not reported for gracePeriod. NodeNotSelected: nodeSelector excludes its
	// node. SerialAmbiguous: several tokens have this serial number. OverMaxDevices:
	// maxDevices others are served.
	// +optional
	// +k8s:optional
	Reason string `json:"reason,omitempty"`

	// message explains the reason, and says what to do.
	// +optional
	// +k8s:optional
	Message string `json:"message,omitempty"`

	// lastTransitionTime is when available or reason last changed.
	// +optional
	// +k8s:optional
	// +k8s:opaqueType
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`

	// lastSeen is when the token was last reported, as of the last change of this
	// entry: a report without news does not move it.
	// +optional
	// +k8s:optional
	// +k8s:opaqueType
	LastSeen *metav1.Time `json:"lastSeen,omitempty"`
}

// PoolMember is a token as its agent sees it.
type PoolMember struct {
	// serialNumber is the serial number of the token.
	// +required
	// +k8s:required
	SerialNumber string `json:"serialNumber"`

	// nodeName is the name of the node that its agent runs on.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-long-name
	NodeName string `json:"nodeName,omitempty"`

	// agentEndpoint is host:port of the agent that owns the token. Empty while the
	// agent does not run, or must not serve the token.
	// +optional
	// +k8s:optional
	AgentEndpoint string `json:"agentEndpoint,omitempty"`

	// state is Serving, or one word for why the token is not served. Starting: its
	// agent does not run yet. AgentUnreachable: its agent does not answer. The reason
	// of its device in aggregatedDevices, if that is why. Or the agent's own reason,
	// such as Loading, TokenAbsent, TokenBlank, TokenForeign, PinRejected, PinLocked,
	// Corrupt or StateDir.
	// +optional
	// +k8s:optional
	State MemberState `json:"state,omitempty"`

	// message says why the token is not served, or what is wrong with its PIN, and
	// what to do. Empty when all is well.
	// +optional
	// +k8s:optional
	Message string `json:"message,omitempty"`

	// storeId is the id of the store on the token, in hexadecimal digits. Empty until
	// the agent has opened it once.
	// +optional
	// +k8s:optional
	StoreID string `json:"storeId,omitempty"`

	// revision is the resourceVersion of the last change in the store.
	// +optional
	// +k8s:optional
	Revision string `json:"revision,omitempty"`

	// role is the token's part in the pool. The primary, named as
	// spec.mirroring.primaryRole says, takes writes; the others mirror it. This
	// version leaves it empty.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-label-value
	Role string `json:"role,omitempty"`

	// inSync is true if the token holds every acknowledged write. This version leaves
	// it false.
	// +optional
	// +k8s:optional
	InSync bool `json:"inSync,omitempty"`

	// objects is the space of the token in PKCS#11 objects. Objects of other
	// applications count as used.
	// +optional
	Objects Capacity `json:"objects,omitempty"`

	// reservedObjects is the number of objects that are neither used nor free: they
	// are reserved for updates and deletes.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	ReservedObjects int64 `json:"reservedObjects,omitempty"`

	// quarantinedObjects is the number of objects that have the format of a store but
	// do not belong to this one: they are damaged, or of another store. They are left
	// alone.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	QuarantinedObjects int64 `json:"quarantinedObjects,omitempty"`

	// bytes is the space of the token in bytes.
	// +optional
	Bytes Capacity `json:"bytes,omitempty"`

	// stuckObjects are the labels of objects that the token does not destroy. Each
	// takes a slot until the token is initialised anew; reads and writes go on. At most
	// 64 are listed.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	StuckObjects []string `json:"stuckObjects,omitempty"`

	// needsRelayout is true if the token refuses writes although it seems to have room,
	// because of how the objects lie in its flash. Nothing is lost, and reads go on.
	// +optional
	// +k8s:optional
	NeedsRelayout bool `json:"needsRelayout,omitempty"`

	// profile names the limits within which the agent uses the token: its kind, and
	// for some kinds its firmware and the layout of its flash.
	// +optional
	// +k8s:optional
	Profile string `json:"profile,omitempty"`

	// firmwareVersion is the version of the token's firmware, as the token says.
	// +optional
	// +k8s:optional
	FirmwareVersion string `json:"firmwareVersion,omitempty"`

	// hardwareVersion is the version that the token's reader says of itself. Of a Pico
	// HSM, where both are one, it tells firmwares apart that have the same
	// firmwareVersion.
	// +optional
	// +k8s:optional
	HardwareVersion string `json:"hardwareVersion,omitempty"`

	// pinState is what the agent knows of the PIN in the PIN Secret. Accepted: the
	// token took it. Changed: the token has the new PIN; write it to the Secret.
	// ChangeRefused: the token keeps the old PIN. Rejected: the agent does not send
	// this PIN again; correct the Secret. Locked: the token takes no PIN any more, or
	// only one more. Empty until the agent has logged in.
	// +optional
	// +k8s:optional
	PINState PINState `json:"pinState,omitempty"`

	// lastScrubTime is when the agent last read the whole store from the token itself,
	// past the cache of its PKCS#11 module.
	// +optional
	// +k8s:optional
	// +k8s:opaqueType
	LastScrubTime *metav1.Time `json:"lastScrubTime,omitempty"`

	// scrubInterval is the longest time between two such readings.
	// +optional
	// +k8s:optional
	// +k8s:opaqueType
	ScrubInterval *metav1.Duration `json:"scrubInterval,omitempty"`

	// certificateExpiry is when the agent's certificate expires.
	// +optional
	// +k8s:optional
	// +k8s:opaqueType
	CertificateExpiry *metav1.Time `json:"certificateExpiry,omitempty"`
}

// MemberState is Serving, or why a token is not served. Agents may report states
// that this version does not list.
type MemberState string

const (
	// MemberStateServing: the agent serves the store on the token.
	MemberStateServing MemberState = "Serving"
	// MemberStateStarting: there is no running agent yet.
	MemberStateStarting MemberState = "Starting"
	// MemberStateAgentUnreachable: the agent does not answer.
	MemberStateAgentUnreachable MemberState = "AgentUnreachable"
	// MemberStateLoading: the agent has not read the whole store yet.
	MemberStateLoading MemberState = "Loading"
)

// PINState is what the agent knows of the PIN in the PIN Secret.
// +enum
// +k8s:enum
type PINState string

const (
	// PINStateAccepted: the token took the PIN.
	PINStateAccepted PINState = "Accepted"
	// PINStateChanged: the token has the new PIN; write it to the PIN Secret.
	PINStateChanged PINState = "Changed"
	// PINStateChangeRefused: the token keeps the old PIN.
	PINStateChangeRefused PINState = "ChangeRefused"
	// PINStateRejected: the agent does not send this PIN again.
	PINStateRejected PINState = "Rejected"
	// PINStateLocked: the token takes no PIN any more, or only one more.
	PINStateLocked PINState = "Locked"
)

// Capacity is the used and free space of a token.
type Capacity struct {
	// used is what is taken.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Used int64 `json:"used,omitempty"`

	// free is what new records can still take.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Free int64 `json:"free,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMPoolList is a list of HSMPools.
type HSMPoolList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// items are the HSMPools.
	Items []HSMPool `json:"items"`
}
