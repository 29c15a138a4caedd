// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// projectedMetadata is all of a projected Secret but its data: labels, annotations, owner,
// type. That of metadataFor depends on the HSMSecret only.
type projectedMetadata struct {
	labels, annotations map[string]string
	owner               *metav1.OwnerReference // Nil: it outlives the HSMSecret.
	secretType          corev1.SecretType
	immutable           bool
}

func metadataFor(h *v1alpha1.HSMSecret) projectedMetadata {
	m := projectedMetadata{
		labels: map[string]string{
			ManagedByLabel:      ManagedByValue,
			ShortManagedByLabel: ShortManagedByValue,
		},
		annotations: map[string]string{
			SourceNameAnnotation: h.Name,
			SourceUIDAnnotation:  string(h.UID),
		},
		secretType: h.Spec.SecretType,
		immutable:  isTrue(h.Immutable),
	}
	// The type requires it. None is created any more, but there may be older ones.
	if h.Spec.SecretType == corev1.SecretTypeServiceAccountToken {
		m.annotations[corev1.ServiceAccountNameKey] = h.Annotations[corev1.ServiceAccountNameKey]
	}
	if template := h.Spec.Template; template != nil {
		m.labels = merged(template.Metadata.Labels, m.labels)
		m.annotations = merged(template.Metadata.Annotations, m.annotations)
	}
	if h.Spec.DeletionPolicy != v1alpha1.DeletionPolicyRetain {
		m.owner = &metav1.OwnerReference{
			APIVersion: hsmSecretKind.GroupVersion().String(),
			Kind:       hsmSecretKind.Kind,
			Name:       h.Name,
			UID:        h.UID,
			Controller: new(true),
		}
	}
	return m
}

// isCurrent reports whether a Secret has all of it.
func (m projectedMetadata) isCurrent(secret *corev1.Secret) bool {
	return isWithin(m.labels, secret.Labels) &&
		isWithin(m.annotations, secret.Annotations) &&
		(m.owner == nil || slices.ContainsFunc(secret.OwnerReferences, m.isOwner)) &&
		!slices.ContainsFunc(secret.OwnerReferences, m.isObsoleteOwner) &&
		(isTrue(secret.Immutable) || !m.immutable) &&
		!m.obsoleteTemplate(secret).any()
}

// obsoleteTemplate are the labels and annotations that the controller has set, and that are
// in no template any more.
func (m projectedMetadata) obsoleteTemplate(secret *corev1.Secret) metadataKeys {
	set := keysSet(secret)
	maps.DeleteFunc(set.labels, func(key string, _ struct{}) bool { _, wanted := m.labels[key]; return wanted })
	maps.DeleteFunc(set.annotations, func(key string, _ struct{}) bool { _, wanted := m.annotations[key]; return wanted || isOurs(key) })
	return set
}

// withSyncState adds the annotations that say what was synced.
func (m projectedMetadata) withSyncState(synced dataVersion, request string, pending bool) projectedMetadata {
	m.annotations = maps.Clone(m.annotations)
	m.annotations[RevisionAnnotation] = synced.revision
	m.annotations[ChecksumAnnotation] = synced.checksum
	if request != "" {
		m.annotations[SyncAnnotation] = request
	}
	if pending {
		m.annotations[RestartAnnotation] = restartPending
	}
	return m
}

// configuration is for an apply, which adds and changes.
func (m projectedMetadata) configuration(namespace, name string, data map[string][]byte) *corev1ac.SecretApplyConfiguration {
	c := corev1ac.Secret(name, namespace).
		WithLabels(m.labels).
		WithAnnotations(m.annotations).
		WithType(m.secretType).
		WithData(data)
	if m.immutable {
		c.WithImmutable(true)
	}
	if m.owner != nil {
		c.WithOwnerReferences(metav1ac.OwnerReference().
			WithAPIVersion(m.owner.APIVersion).
			WithKind(m.owner.Kind).
			WithName(m.owner.Name).
			WithUID(m.owner.UID).
			WithController(true))
	}
	return c
}

// removes reports whether something has to go that an apply may leave, because others own
// it as well: then the Secret is updated as a whole.
func (m projectedMetadata) removes(secret *corev1.Secret, data map[string][]byte) bool {
	for name := range secret.Data {
		if _, ok := data[name]; !ok {
			return true
		}
	}
	return m.obsoleteTemplate(secret).any() ||
		slices.ContainsFunc(m.obsoleteAnnotations(), func(name string) bool { _, found := secret.Annotations[name]; return found }) ||
		slices.ContainsFunc(secret.OwnerReferences, m.isObsoleteOwner)
}

// setOn returns the Secret with this metadata, and with this data and no other.
func (m projectedMetadata) setOn(secret *corev1.Secret, data map[string][]byte) *corev1.Secret {
	updated := secret.DeepCopy()
	updated.Data = data
	obsolete := m.obsoleteTemplate(secret)
	maps.DeleteFunc(updated.Labels, func(key, _ string) bool { _, gone := obsolete.labels[key]; return gone })
	maps.DeleteFunc(updated.Annotations, func(key, _ string) bool { _, gone := obsolete.annotations[key]; return gone })
	updated.Labels = merged(updated.Labels, m.labels)
	for _, name := range m.obsoleteAnnotations() {
		delete(updated.Annotations, name)
	}
	updated.Annotations = merged(updated.Annotations, m.annotations)
	updated.OwnerReferences = slices.DeleteFunc(updated.OwnerReferences, m.isObsoleteOwner)
	if m.owner != nil && !slices.ContainsFunc(updated.OwnerReferences, m.isOwner) {
		updated.OwnerReferences = append(updated.OwnerReferences, *m.owner)
	}
	if m.immutable {
		updated.Immutable = new(true)
	}
	return updated
}

// isOwner reports whether a reference is the one that the Secret is to have.
func (m projectedMetadata) isOwner(owner metav1.OwnerReference) bool {
	return m.owner != nil && owner.UID == m.owner.UID && isTrue(owner.Controller)
}

// isObsoleteOwner reports whether a reference to an HSMSecret has to go.
func (m projectedMetadata) isObsoleteOwner(owner metav1.OwnerReference) bool {
	return isHSMSecret(owner) && !m.isOwner(owner)
}

// obsoleteAnnotations are those that have to go.
func (m projectedMetadata) obsoleteAnnotations() []string {
	return slices.DeleteFunc([]string{AdoptAnnotation, RestartAnnotation, SyncAnnotation}, func(name string) bool {
		_, wanted := m.annotations[name]
		return wanted
	})
}

func isWithin(part, whole map[string]string) bool {
	for name, value := range part {
		if got, ok := whole[name]; !ok || got != value {
			return false
		}
	}
	return true
}

func merged(into, from map[string]string) map[string]string {
	all := maps.Clone(from)
	for name, value := range into {
		if _, ok := from[name]; !ok {
			all[name] = value
		}
	}
	return all
}
