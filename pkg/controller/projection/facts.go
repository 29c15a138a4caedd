// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

// pair is an HSMSecret and the Secret of the name that it wants, read live.
type pair struct {
	hsm    *v1alpha1.HSMSecret
	secret *corev1.Secret // Nil: there is none.
}

// factsOf takes from a pair what a decision needs. status is the last one known.
func (r *reconciler) factsOf(ctx context.Context, p pair, m *memory, status v1alpha1.HSMSecretStatus) (facts, error) {
	key, err := r.keys.get(ctx)
	if err != nil {
		return facts{}, err
	}
	f := facts{source: sourceOf(p.hsm, key), lastSum: status.SecretChecksum}
	// A request that is not known to be new is taken for honoured.
	f.lastRequest = f.source.request
	name := p.hsm.Spec.SecretName
	if m.known && m.uid == p.hsm.UID {
		f.lastRequest, name = m.request, m.secretName
	}
	if ref := status.SecretRef; ref != nil {
		name = ref.Name
	}
	f.projected = name == p.hsm.Spec.SecretName &&
		(status.SecretRef != nil || hasReason(status.Conditions, v1alpha1.HSMSecretSynced, reasonSecretDeleted))
	if p.secret == nil {
		return f, nil
	}
	f.target = targetOf(p, key)
	f.target.holder, f.target.holderName, err = r.holderOf(ctx, p)
	return f, err
}

func sourceOf(h *v1alpha1.HSMSecret, key []byte) source {
	s := source{
		mark:          mark{revision: h.Status.DataVersion, sum: checksum(key, h.UID, h.Data)},
		secretType:    h.Spec.SecretType,
		immutable:     isTrue(h.Immutable),
		autoSync:      h.Spec.AutoSync == nil || *h.Spec.AutoSync,
		bidirectional: h.Spec.SyncDirection != v1alpha1.SyncDirectionHSMToSecret,
		workloads:     len(h.Spec.RolloutRestartTargets) > 0,
		request:       h.Annotations[SyncAnnotation],
	}
	if revision, sum, ok := strings.Cut(h.Annotations[PushedAnnotation], " "); ok {
		s.pushed = mark{revision, sum}
	}
	return s
}

func targetOf(p pair, key []byte) *target {
	return &target{
		secretType: p.secret.Type,
		immutable:  isTrue(p.secret.Immutable),
		sum:        checksum(key, p.hsm.UID, p.secret.Data),
		inStep:     inStepOf(p.secret),
		request:    p.secret.Annotations[SyncAnnotation],
		pending:    p.secret.Annotations[RestartAnnotation] == restartPending,
		dressed:    outfitOf(p.hsm).isOn(p.secret),
	}
}

func inStepOf(secret *corev1.Secret) mark {
	return mark{secret.Annotations[RevisionAnnotation], secret.Annotations[ChecksumAnnotation]}
}

// holderOf tells whose the Secret is, and the name of another HSMSecret if it is
// that one's.
func (r *reconciler) holderOf(ctx context.Context, p pair) (holder, string, error) {
	uid, name := types.UID(p.secret.Annotations[SourceUIDAnnotation]), p.secret.Annotations[SourceNameAnnotation]
	owner := ownerIn(p.secret)
	switch {
	case uid == p.hsm.UID, owner != nil && owner.UID == p.hsm.UID:
		return us, "", nil
	case owner != nil && owner.Name == p.hsm.Name:
		// Two HSMSecrets of one name never live at once: that one is gone, and the
		// garbage collector would delete its Secret.
		return inherited, "", nil
	case name == "":
		return adoptable(p.secret), "", nil
	}
	other := metadataOf(hsmSecretKind)
	err := r.cache.Get(ctx, client.ObjectKey{Namespace: p.hsm.Namespace, Name: name}, other)
	switch {
	case apierrors.IsNotFound(err), err == nil && other.UID != uid:
		// It is gone, and has left its Secret.
		return adoptable(p.secret), "", nil
	case err != nil:
		return stranger, "", fmt.Errorf("look up HSMSecret %s: %w", name, err)
	case p.hsm.CreationTimestamp.Time.Before(other.CreationTimestamp.Time):
		return inherited, "", nil
	}
	return another, name, nil
}

func adoptable(secret *corev1.Secret) holder {
	if secret.Annotations[AdoptAnnotation] == "true" {
		return willing
	}
	return stranger
}

// ownerIn returns the owner of a Secret that is an HSMSecret, or nil.
func ownerIn(secret metav1.Object) *metav1.OwnerReference {
	owner := metav1.GetControllerOfNoCopy(secret)
	if owner != nil && isHSMSecret(*owner) {
		return owner
	}
	return nil
}

func isHSMSecret(owner metav1.OwnerReference) bool {
	return owner.Kind == hsmSecretKind.Kind && strings.HasPrefix(owner.APIVersion, hsmSecretKind.Group+"/")
}

// editor tells who, of all but the controller, wrote data last, and when.
func editor(secret *corev1.Secret) (who string, when time.Time) {
	who = "someone"
	for _, entry := range secret.ManagedFields {
		if entry.Manager != identity.FieldManager && ownsData(entry) && entry.Time != nil && entry.Time.After(when) {
			who, when = entry.Manager, entry.Time.Time
		}
	}
	return who, when
}

func ownsData(entry metav1.ManagedFieldsEntry) bool {
	if entry.FieldsV1 == nil {
		return false
	}
	fields := map[string]json.RawMessage{}
	// What cannot be decoded says nothing.
	_ = json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields)
	_, ok := fields["f:data"]
	return ok
}

// applied tells when the controller applied the Secret last; nil if it never did.
func applied(secret metav1.Object) *metav1.Time {
	for _, entry := range secret.GetManagedFields() {
		if entry.Manager == identity.FieldManager && entry.Operation == metav1.ManagedFieldsOperationApply {
			return entry.Time
		}
	}
	return nil
}

// hasStatus tells whether the controller's status is on an HSMSecret.
func hasStatus(h metav1.Object) bool {
	for _, entry := range h.GetManagedFields() {
		if entry.Manager == identity.FieldManager && entry.Subresource == "status" {
			return true
		}
	}
	return false
}

func hasReason(conditions []metav1.Condition, conditionType, reason string) bool {
	condition := meta.FindStatusCondition(conditions, conditionType)
	return condition != nil && condition.Reason == reason
}

func isTrue(b *bool) bool { return b != nil && *b }
