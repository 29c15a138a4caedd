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

// outfit is what a Secret wears besides its data: labels, annotations, owner,
// type. That of outfitOf depends on the HSMSecret only.
type outfit struct {
	labels, annotations map[string]string
	owner               *metav1.OwnerReference // Nil: it outlives the HSMSecret.
	secretType          corev1.SecretType
	immutable           bool
}

func outfitOf(h *v1alpha1.HSMSecret) outfit {
	o := outfit{
		labels: map[string]string{
			ManagedByLabel:      ManagedByValue,
			PeoplesManagedLabel: PeoplesManagedValue,
		},
		annotations: map[string]string{
			SourceNameAnnotation: h.Name,
			SourceUIDAnnotation:  string(h.UID),
		},
		secretType: h.Spec.SecretType,
		immutable:  isTrue(h.Immutable),
	}
	// The type requires it of the Secret too.
	if h.Spec.SecretType == corev1.SecretTypeServiceAccountToken {
		o.annotations[corev1.ServiceAccountNameKey] = h.Annotations[corev1.ServiceAccountNameKey]
	}
	if h.Spec.DeletionPolicy != v1alpha1.DeletionPolicyRetain {
		o.owner = &metav1.OwnerReference{
			APIVersion: hsmSecretKind.GroupVersion().String(),
			Kind:       hsmSecretKind.Kind,
			Name:       h.Name,
			UID:        h.UID,
			Controller: new(true),
		}
	}
	return o
}

// isOn tells whether a Secret wears all of it.
func (o outfit) isOn(secret *corev1.Secret) bool {
	return isWithin(o.labels, secret.Labels) &&
		isWithin(o.annotations, secret.Annotations) &&
		(o.owner == nil || slices.ContainsFunc(secret.OwnerReferences, o.owns)) &&
		!slices.ContainsFunc(secret.OwnerReferences, o.supersedes) &&
		(isTrue(secret.Immutable) || !o.immutable)
}

// noted is the outfit with what else is to be noted on the Secret.
func (o outfit) noted(inStep mark, request string, pending bool) outfit {
	o.annotations = maps.Clone(o.annotations)
	o.annotations[RevisionAnnotation] = inStep.revision
	o.annotations[ChecksumAnnotation] = inStep.sum
	if request != "" {
		o.annotations[SyncAnnotation] = request
	}
	if pending {
		o.annotations[RestartAnnotation] = restartPending
	}
	return o
}

// configuration is for an apply, which adds and changes.
func (o outfit) configuration(namespace, name string, data map[string][]byte) *corev1ac.SecretApplyConfiguration {
	c := corev1ac.Secret(name, namespace).
		WithLabels(o.labels).
		WithAnnotations(o.annotations).
		WithType(o.secretType).
		WithData(data)
	if o.immutable {
		c.WithImmutable(true)
	}
	if o.owner != nil {
		c.WithOwnerReferences(metav1ac.OwnerReference().
			WithAPIVersion(o.owner.APIVersion).
			WithKind(o.owner.Kind).
			WithName(o.owner.Name).
			WithUID(o.owner.UID).
			WithController(true))
	}
	return c
}

// takesAway tells whether something has to go that an apply may leave, because
// others own it as well: then the Secret is updated as a whole.
func (o outfit) takesAway(secret *corev1.Secret, data map[string][]byte) bool {
	for name := range secret.Data {
		if _, ok := data[name]; !ok {
			return true
		}
	}
	return slices.ContainsFunc(o.stale(), func(name string) bool { _, worn := secret.Annotations[name]; return worn }) ||
		slices.ContainsFunc(secret.OwnerReferences, o.supersedes)
}

// on returns the Secret in this outfit, with this data and no other.
func (o outfit) on(secret *corev1.Secret, data map[string][]byte) *corev1.Secret {
	dressed := secret.DeepCopy()
	dressed.Data = data
	dressed.Labels = merged(dressed.Labels, o.labels)
	for _, name := range o.stale() {
		delete(dressed.Annotations, name)
	}
	dressed.Annotations = merged(dressed.Annotations, o.annotations)
	dressed.OwnerReferences = slices.DeleteFunc(dressed.OwnerReferences, o.supersedes)
	if o.owner != nil && !slices.ContainsFunc(dressed.OwnerReferences, o.owns) {
		dressed.OwnerReferences = append(dressed.OwnerReferences, *o.owner)
	}
	if o.immutable {
		dressed.Immutable = new(true)
	}
	return dressed
}

// owns tells whether a reference is the one of this outfit.
func (o outfit) owns(owner metav1.OwnerReference) bool {
	return o.owner != nil && owner.UID == o.owner.UID && isTrue(owner.Controller)
}

// supersedes tells whether a reference to an HSMSecret has to go.
func (o outfit) supersedes(owner metav1.OwnerReference) bool {
	return isHSMSecret(owner) && !o.owns(owner)
}

// stale are the annotations that have to go.
func (o outfit) stale() []string {
	return slices.DeleteFunc([]string{AdoptAnnotation, RestartAnnotation, SyncAnnotation}, func(name string) bool {
		_, wanted := o.annotations[name]
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
