// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// MaxDataSize is the largest sum of the lengths of all values of one HSMSecret,
// in bytes. It is that of a core Secret; a token may hold less.
const MaxDataSize = 1 << 20

// MaxHSMPathLength is the largest length of spec.hsmPath, in bytes. The longest
// default path has 325.
const MaxHSMPathLength = 512

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMSecret is a secret that lives on a hardware security module.
type HSMSecret struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Spec      HSMSecretSpec
	Immutable *bool
	Data      map[string][]byte
	Status    HSMSecretStatus
}

// HSMSecretSpec says where a secret lies and how it is projected.
type HSMSecretSpec struct {
	HSMPath               string
	SecretName            string
	SecretType            corev1.SecretType
	AutoSync              *bool
	SyncInterval          int32
	SyncDirection         SyncDirection
	DeletionPolicy        DeletionPolicy
	RolloutRestartTargets []RolloutRestartTarget
	Template              *SecretTemplate
}

// SecretTemplate is what a projected Secret gets besides data.
type SecretTemplate struct {
	Metadata SecretTemplateMetadata
}

// SecretTemplateMetadata is metadata of a projected Secret.
type SecretTemplateMetadata struct {
	Labels, Annotations map[string]string
}

// SyncDirection says who may change the projected Secret.
type SyncDirection string

// The sync directions.
const (
	SyncDirectionBidirectional SyncDirection = "Bidirectional"
	SyncDirectionHSMToSecret   SyncDirection = "HSMToSecret"
)

// DeletionPolicy says what becomes of the projected Secret.
type DeletionPolicy string

// The deletion policies.
const (
	DeletionPolicyDelete DeletionPolicy = "Delete"
	DeletionPolicyRetain DeletionPolicy = "Retain"
)

// RolloutRestartTarget names a workload of the same namespace.
type RolloutRestartTarget struct {
	Kind WorkloadKind
	Name string
}

// WorkloadKind is a kind of the group apps.
type WorkloadKind string

// The workload kinds.
const (
	WorkloadKindDeployment  WorkloadKind = "Deployment"
	WorkloadKindStatefulSet WorkloadKind = "StatefulSet"
	WorkloadKindDaemonSet   WorkloadKind = "DaemonSet"
)

// HSMSecretStatus is what is known of the projection and of the token.
type HSMSecretStatus struct {
	SyncStatus         SyncStatus
	LastSyncTime       *metav1.Time
	HSMChecksum        string
	SecretChecksum     string
	LastError          string
	SecretRef          *SecretReference
	ObservedGeneration int64
	Conditions         []metav1.Condition

	HSMPath          string
	DataVersion      string
	DeviceSyncStatus []DeviceSyncStatus
	PrimaryDevice    string
}

// SyncStatus compares two copies of a secret.
type SyncStatus string

// The sync statuses.
const (
	SyncStatusInSync    SyncStatus = "InSync"
	SyncStatusOutOfSync SyncStatus = "OutOfSync"
	SyncStatusError     SyncStatus = "Error"
	SyncStatusPending   SyncStatus = "Pending"
)

// SecretReference names the projected Secret.
type SecretReference struct {
	Name      string
	Namespace string
	UID       types.UID
}

// DeviceSyncStatus is what one token holds of a secret.
type DeviceSyncStatus struct {
	SerialNumber string
	SyncStatus   SyncStatus
	DataVersion  string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMSecretList is a list of HSMSecrets.
type HSMSecretList struct {
	metav1.TypeMeta
	metav1.ListMeta

	Items []HSMSecret
}
