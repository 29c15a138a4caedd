// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// +genclient
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:supportsSubresource="/status"

// HSMSecret is a secret that lives on a hardware security module (the token). It
// is nowhere else in the cluster, unless it is projected into a Secret. Every get
// reads the token; an acknowledged write is durable on it. While the token cannot
// be reached, requests fail with 503 Service Unavailable, never with 404 Not
// Found.
type HSMSecret struct {
	// +k8s:opaqueType
	metav1.TypeMeta `json:",inline"`
	// metadata is standard object metadata. The annotation
	// kubectl.kubernetes.io/last-applied-configuration is stored with the values of
	// data and stringData blanked.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:opaqueType
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says where the secret lies on the token, and how to project it into a
	// Secret. Written by users.
	// +optional
	Spec HSMSecretSpec `json:"spec,omitempty"`

	// immutable, once true, fixes data: neither data nor immutable can be changed any
	// more. Metadata and spec can. To change data, delete the HSMSecret and create it
	// again.
	// Default: not set, which is false. Written by users.
	// +optional
	// +k8s:optional
	Immutable *bool `json:"immutable,omitempty"`

	// data is the secret itself: keys and base64 encoded values. A key consists of
	// letters, digits, '-', '_' and '.', and has at most 253 characters. All values
	// together have at most 1 MiB. Many tokens hold much less: then the answer is 507
	// Insufficient Storage. Written by users.
	// +optional
	Data map[string][]byte `json:"data,omitempty"`

	// stringData takes values as plain text, for convenience. Each write merges it
	// into data, where it replaces values of the same key. It is never returned.
	// Written by users.
	// +optional
	// +k8s:optional
	StringData map[string]string `json:"stringData,omitempty"`

	// status shows the state of the projection and of the token. It is kept in this
	// cluster, not on the token. Each of its fields names its writer.
	// +optional
	Status HSMSecretStatus `json:"status,omitempty"`
}

// HSMSecretSpec says where a secret lies on the token, and how to project it into
// a Secret.
type HSMSecretSpec struct {
	// hsmPath is the address of the secret on the token, such as shared/db: segments
	// of letters, digits, '-', '_' and '.', separated by '/', none of them '.' or '..',
	// together at most 512 bytes. It is unique in the store and cannot be changed. A
	// path outside secrets/<namespace>/ needs the verb claim on the resource
	// hsmsecrets, with the path as resource name.
	// Default: secrets/<metadata.namespace>/<metadata.name>. The default is not written
	// here, so that a copy of the object gets a path of its own: see status.hsmPath.
	// Written by users.
	// +optional
	// +k8s:optional
	// +k8s:maxBytes=512
	// +k8s:validation:maxLength=512
	HSMPath string `json:"hsmPath,omitempty"`

	// secretName is the name of the Secret, in the same namespace, into which data
	// is projected; a DNS subdomain. Two HSMSecrets cannot share a Secret, and a
	// Secret that exists already is not taken over: the condition Conflict says so.
	// Default: metadata.name. The default is not written here, so that a copy of the
	// object gets a Secret of its own: see status.secretRef. Written by users.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-long-name
	// +k8s:validation:maxLength=253
	SecretName string `json:"secretName,omitempty"`

	// secretType is the type of the projected Secret. It cannot be changed. The types
	// of Kubernetes require their keys in data: kubernetes.io/tls requires tls.crt and
	// tls.key; kubernetes.io/dockerconfigjson .dockerconfigjson;
	// kubernetes.io/dockercfg .dockercfg; kubernetes.io/basic-auth username or
	// password; kubernetes.io/ssh-auth ssh-privatekey. There is no HSMSecret of type
	// kubernetes.io/service-account-token: Kubernetes itself writes such Secrets.
	// Default: Opaque. Written by users.
	// +optional
	// +default="Opaque"
	// +k8s:optional
	// +k8s:immutable
	// +k8s:opaqueType
	SecretType corev1.SecretType `json:"secretType,omitempty"`

	// autoSync keeps the Secret in step with the token. If false, the controller
	// makes the Secret once and then leaves it alone.
	// Default: true. Written by users.
	// +optional
	// +default=true
	// +k8s:optional
	AutoSync *bool `json:"autoSync,omitempty"`

	// syncInterval is the time in seconds between two full comparisons of token and
	// Secret. It is a safety net: changes travel at once. At least 10.
	// Default: 300. Written by users.
	// +optional
	// +default=300
	// +k8s:optional
	// +k8s:minimum=10
	// +k8s:validation:minimum=10
	SyncInterval int32 `json:"syncInterval,omitempty"`

	// syncDirection says what happens to an edit of the Secret. Bidirectional: it is
	// written to the token. HSMToSecret: it is reverted.
	// Default: Bidirectional. Written by users.
	// +optional
	// +default="Bidirectional"
	// +k8s:optional
	SyncDirection SyncDirection `json:"syncDirection,omitempty"`

	// deletionPolicy says what happens to the Secret when this HSMSecret is deleted.
	// Delete: it is deleted too. Retain: it stays.
	// Default: Delete. Written by users.
	// +optional
	// +default="Delete"
	// +k8s:optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// rolloutRestartTargets are workloads of the same namespace. The controller
	// restarts them when the data of the Secret has changed. At most 32.
	// Default: none. Written by users.
	// +optional
	// +listType=map
	// +listMapKey=kind
	// +listMapKey=name
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=kind
	// +k8s:listMapKey=name
	// +k8s:maxItems=32
	// +k8s:validation:maxItems=32
	RolloutRestartTargets []RolloutRestartTarget `json:"rolloutRestartTargets,omitempty"`

	// template is what the Secret gets besides data. Only who may create Secrets in the
	// namespace may set or change it.
	// Default: none. Written by users.
	// +optional
	// +k8s:optional
	Template *SecretTemplate `json:"template,omitempty"`
}

// SecretTemplate is what a projected Secret gets besides data.
type SecretTemplate struct {
	// metadata is metadata of the Secret.
	// +optional
	Metadata SecretTemplateMetadata `json:"metadata,omitempty"`
}

// SecretTemplateMetadata is metadata of a projected Secret. What others have put on the
// Secret stays.
type SecretTemplateMetadata struct {
	// labels are labels of the Secret. Those that the controller itself writes cannot be
	// set: app.kubernetes.io/managed-by and managed-by.
	// +optional
	// +k8s:optional
	Labels map[string]string `json:"labels,omitempty"`

	// annotations are annotations of the Secret. Those of the domain hsm.j5t.io belong to
	// the controller, and cannot be set.
	// +optional
	// +k8s:optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// SyncDirection says what happens to an edit of the projected Secret.
// +enum
// +k8s:enum
type SyncDirection string

const (
	// SyncDirectionBidirectional writes an edit of the Secret to the token.
	SyncDirectionBidirectional SyncDirection = "Bidirectional"
	// SyncDirectionHSMToSecret reverts an edit of the Secret.
	SyncDirectionHSMToSecret SyncDirection = "HSMToSecret"
)

// DeletionPolicy says what happens to the projected Secret when its HSMSecret is
// deleted.
// +enum
// +k8s:enum
type DeletionPolicy string

const (
	// DeletionPolicyDelete deletes the Secret.
	DeletionPolicyDelete DeletionPolicy = "Delete"
	// DeletionPolicyRetain leaves the Secret.
	DeletionPolicyRetain DeletionPolicy = "Retain"
)

// RolloutRestartTarget names a workload of the HSMSecret's namespace.
type RolloutRestartTarget struct {
	// kind is Deployment, StatefulSet or DaemonSet, of the group apps.
	// +required
	// +k8s:required
	Kind WorkloadKind `json:"kind"`

	// name is the name of the workload.
	// +required
	// +k8s:required
	// +k8s:format=k8s-long-name
	Name string `json:"name"`
}

// WorkloadKind is a kind of the group apps.
// +enum
// +k8s:enum
type WorkloadKind string

const (
	// WorkloadKindDeployment is apps/v1 Deployment.
	WorkloadKindDeployment WorkloadKind = "Deployment"
	// WorkloadKindStatefulSet is apps/v1 StatefulSet.
	WorkloadKindStatefulSet WorkloadKind = "StatefulSet"
	// WorkloadKindDaemonSet is apps/v1 DaemonSet.
	WorkloadKindDaemonSet WorkloadKind = "DaemonSet"
)

// HSMSecretStatus shows the state of the projection and of the token.
type HSMSecretStatus struct {
	// syncStatus compares token and Secret: InSync, OutOfSync, Error or Pending.
	// Written by the controller.
	// +optional
	// +k8s:optional
	SyncStatus SyncStatus `json:"syncStatus,omitempty"`

	// lastSyncTime is when data was last synced, in either direction. It does not move
	// while nothing changes. Written by the controller.
	// +optional
	// +k8s:optional
	// +k8s:opaqueType
	LastSyncTime *metav1.Time `json:"lastSyncTime,omitempty"`

	// hsmChecksum is a keyed checksum of data on the token: hmac-sha256:<hex>. The
	// key belongs to the store. Compare it with secretChecksum of the same object only.
	// Written by the controller.
	// +optional
	// +k8s:optional
	HSMChecksum string `json:"hsmChecksum,omitempty"`

	// secretChecksum is the same keyed checksum of data in the Secret. Written by
	// the controller.
	// +optional
	// +k8s:optional
	SecretChecksum string `json:"secretChecksum,omitempty"`

	// lastError says why the last sync failed, and what to do; empty if it did not
	// fail. Written by the controller.
	// +optional
	// +k8s:optional
	LastError string `json:"lastError,omitempty"`

	// secretRef names the projected Secret; not set while there is none. Written by
	// the controller.
	// +optional
	// +k8s:optional
	SecretRef *SecretReference `json:"secretRef,omitempty"`

	// observedGeneration is the metadata.generation that the controller's fields
	// describe. Written by the controller.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, Synced and Conflict. Written by the controller.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	// +k8s:optional
	// +k8s:eachVal=+k8s:opaqueType
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`

	// hsmPath is the address of the secret on the token: spec.hsmPath, or its default.
	// Written by the API server; other writers' values are ignored.
	// +optional
	// +k8s:optional
	HSMPath string `json:"hsmPath,omitempty"`

	// dataVersion changes when data changes, and only then. It is opaque. Written by
	// the API server when it reads the token; other writers' values are ignored.
	// +optional
	// +k8s:optional
	DataVersion string `json:"dataVersion,omitempty"`

	// deviceSyncStatus says for each token that holds the store whether it holds this
	// secret. Written by the API server when it reads the token; other writers'
	// values are ignored.
	// +optional
	// +listType=map
	// +listMapKey=serialNumber
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=serialNumber
	DeviceSyncStatus []DeviceSyncStatus `json:"deviceSyncStatus,omitempty"`

	// primaryDevice is the serial number of the token that takes writes. Written by
	// the API server when it reads the token; other writers' values are ignored.
	// +optional
	// +k8s:optional
	PrimaryDevice string `json:"primaryDevice,omitempty"`
}

// SyncStatus compares two copies of a secret.
// +enum
// +k8s:enum
type SyncStatus string

const (
	// SyncStatusInSync: the copies are the same.
	SyncStatusInSync SyncStatus = "InSync"
	// SyncStatusOutOfSync: the copies differ.
	SyncStatusOutOfSync SyncStatus = "OutOfSync"
	// SyncStatusError: the copies could not be compared or synced.
	SyncStatusError SyncStatus = "Error"
	// SyncStatusPending: nothing was synced yet.
	SyncStatusPending SyncStatus = "Pending"
)

// The types of an HSMSecret's conditions.
const (
	// HSMSecretReady: the Secret can be used.
	HSMSecretReady = "Ready"
	// HSMSecretSynced: token and Secret are in step.
	HSMSecretSynced = "Synced"
	// HSMSecretConflict: the Secret was made by someone else, or both sides changed.
	HSMSecretConflict = "Conflict"
)

// SecretReference names the projected Secret.
type SecretReference struct {
	// name is the name of the Secret.
	// +required
	// +k8s:required
	// +k8s:format=k8s-long-name
	Name string `json:"name"`

	// namespace is the namespace of the Secret: that of the HSMSecret.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-short-name
	Namespace string `json:"namespace,omitempty"`

	// uid is the uid of the Secret. It distinguishes a Secret from a later one of the
	// same name.
	// +optional
	// +k8s:optional
	UID types.UID `json:"uid,omitempty"`
}

// DeviceSyncStatus says whether one token holds a secret.
type DeviceSyncStatus struct {
	// serialNumber is the serial number of the token.
	// +required
	// +k8s:required
	SerialNumber string `json:"serialNumber"`

	// syncStatus compares this token with the one that takes writes.
	// +optional
	// +k8s:optional
	SyncStatus SyncStatus `json:"syncStatus,omitempty"`

	// dataVersion is the version of data that this token holds.
	// +optional
	// +k8s:optional
	DataVersion string `json:"dataVersion,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// HSMSecretList is a list of HSMSecrets.
type HSMSecretList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// items are the HSMSecrets.
	Items []HSMSecret `json:"items"`
}
