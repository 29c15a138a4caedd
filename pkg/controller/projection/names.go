// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"crypto/sha256"
	"encoding/hex"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

// The labels of a projected Secret. The watch selects by the first. The second is short
// enough to type in a selector.
const (
	ManagedByLabel      = "app.kubernetes.io/managed-by"
	ManagedByValue      = identity.Name
	ShortManagedByLabel = "managed-by"
	ShortManagedByValue = "hsm-secrets-operator"
)

// annotationDomain begins the annotations of the controller.
const annotationDomain = "hsm.j5t.io/"

// The annotations of a projected Secret. All but AdoptAnnotation are written by
// the controller only.
const (
	// SourceNameAnnotation and SourceUIDAnnotation name the HSMSecret.
	SourceNameAnnotation = "hsm.j5t.io/source-name"
	SourceUIDAnnotation  = "hsm.j5t.io/source-uid"
	// RevisionAnnotation is the status.dataVersion, and ChecksumAnnotation the keyed
	// checksum, of the data when token and Secret were last in sync.
	RevisionAnnotation = "hsm.j5t.io/revision"
	ChecksumAnnotation = "hsm.j5t.io/checksum"
	// RestartAnnotation is there while workloads are still to be restarted for the
	// data.
	RestartAnnotation = "hsm.j5t.io/restart"
	restartPending    = "pending"
	// AdoptAnnotation, "true", lets the controller take over a Secret that it did not
	// make. Whoever may edit the Secret sets it; it is removed by the adoption.
	AdoptAnnotation = "hsm.j5t.io/adopt"
)

// SyncAnnotation asks an HSMSecret without autoSync for one more sync by any
// value that is new. On the Secret it is the value that was last answered.
const SyncAnnotation = "hsm.j5t.io/sync"

// PushedAnnotation on an HSMSecret says which data the last push back wrote, and
// from which projection: "<revision> <checksum>".
const PushedAnnotation = "hsm.j5t.io/pushed-back"

// contentPrefix begins the annotations of a pod template that say for which
// content of which Secret its pods were restarted.
const contentPrefix = "content.hsm.j5t.io/"

// secretNameField selects HSMSecrets by the Secret that they are projected into.
const secretNameField = "spec.secretName"

var (
	hsmSecretKind = v1alpha1.SchemeGroupVersion.WithKind("HSMSecret")
	secretKind    = schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
)

// metadataOf returns an empty object of which only metadata is read.
func metadataOf(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(kind)
	return m
}

func metadataListOf(kind schema.GroupVersionKind) *metav1.PartialObjectMetadataList {
	m := &metav1.PartialObjectMetadataList{}
	m.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	return m
}

// workloadKind is of the group apps.
func workloadKind(kind v1alpha1.WorkloadKind) schema.GroupVersionKind {
	return appsv1.SchemeGroupVersion.WithKind(string(kind))
}

// contentAnnotation is the annotation of a pod template for a Secret. A name that
// is longer than the name of an annotation may be ends in a hash.
func contentAnnotation(secretName string) string {
	if len(secretName) > validation.DNS1123LabelMaxLength {
		sum := sha256.Sum256([]byte(secretName))
		secretName = secretName[:validation.DNS1123LabelMaxLength-17] + "-" + hex.EncodeToString(sum[:8])
	}
	return contentPrefix + secretName
}
