// SPDX-License-Identifier: Apache-2.0

package hsm

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMPool is the set of tokens found for HSMDevices.
type HSMPool struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Spec   HSMPoolSpec
	Status HSMPoolStatus
}

// HSMPoolSpec says whose tokens form the pool.
type HSMPoolSpec struct {
	HSMDeviceRefs []string
	GracePeriod   *metav1.Duration
	Mirroring     *PoolMirroring
}

// PoolMirroring says whether the tokens of a pool mirror each other.
type PoolMirroring struct {
	Enabled     bool
	PrimaryRole string
}

// HSMPoolStatus is what discovery and the agents reported.
type HSMPoolStatus struct {
	Phase               PoolPhase
	TotalDevices        int32
	AvailableDevices    int32
	ExpectedPods        int32
	ReportingPods       []ReportingPod
	AggregatedDevices   []AggregatedDevice
	Members             []PoolMember
	LastAggregationTime *metav1.Time
	ObservedGeneration  int64
	Conditions          []metav1.Condition
}

// PoolPhase sums up a pool in one word.
type PoolPhase string

// The phases of a pool.
const (
	PoolPhasePending     PoolPhase = "Pending"
	PoolPhaseAggregating PoolPhase = "Aggregating"
	PoolPhaseReady       PoolPhase = "Ready"
	PoolPhasePartial     PoolPhase = "Partial"
	PoolPhaseError       PoolPhase = "Error"
)

// ReportingPod is a discovery pod and its last report.
type ReportingPod struct {
	PodName         string
	NodeName        string
	DevicesFound    int32
	LastReportTime  *metav1.Time
	DiscoveryStatus DiscoveryStatus
	Fresh           bool
	Error           string
}

// DiscoveryStatus is how far a discovery pod is.
type DiscoveryStatus string

// The discovery statuses.
const (
	DiscoveryStatusDiscovering DiscoveryStatus = "discovering"
	DiscoveryStatusCompleted   DiscoveryStatus = "completed"
	DiscoveryStatusError       DiscoveryStatus = "error"
)

// AggregatedDevice is a token that discovery found.
type AggregatedDevice struct {
	SerialNumber       string
	NodeName           string
	DevicePath         string
	HSMDeviceName      string
	ShortAPDUs         bool
	Available          bool
	Reason             string
	Message            string
	LastTransitionTime *metav1.Time
	LastSeen           *metav1.Time
}

// PoolMember is a token as its agent sees it.
type PoolMember struct {
	SerialNumber       string
	NodeName           string
	AgentEndpoint      string
	State              MemberState
	Message            string
	StoreID            string
	Revision           string
	Role               string
	InSync             bool
	Objects            Capacity
	ReservedObjects    int64
	QuarantinedObjects int64
	Bytes              Capacity
	StuckObjects       []string
	NeedsRelayout      bool
	Profile            string
	FirmwareVersion    string
	HardwareVersion    string
	PINState           PINState
	LastScrubTime      *metav1.Time
	ScrubInterval      *metav1.Duration
	CertificateExpiry  *metav1.Time
}

// MemberState is Serving, or why a token is not served.
type MemberState string

// The member states that the controller itself knows.
const (
	MemberStateServing          MemberState = "Serving"
	MemberStateStarting         MemberState = "Starting"
	MemberStateAgentUnreachable MemberState = "AgentUnreachable"
	MemberStateLoading          MemberState = "Loading"
)

// PINState is what is known of the PIN in the PIN Secret.
type PINState string

// The states of a PIN.
const (
	PINStateAccepted      PINState = "Accepted"
	PINStateChanged       PINState = "Changed"
	PINStateChangeRefused PINState = "ChangeRefused"
	PINStateRejected      PINState = "Rejected"
	PINStateLocked        PINState = "Locked"
)

// Capacity is used and free room of a token.
type Capacity struct {
	Used int64
	Free int64
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMPoolList is a list of HSMPools.
type HSMPoolList struct {
	metav1.TypeMeta
	metav1.ListMeta

	Items []HSMPool
}
