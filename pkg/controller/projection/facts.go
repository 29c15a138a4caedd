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

// factsOf takes from a pass what a decision needs.
func (r *reconciler) factsOf(ctx context.Context, p *pass) (facts, error) {
	key, err := r.keys.get(ctx)
	if err != nil {
		return facts{}, err
	}
	f := facts{hsm: hsmFactsOf(p.hsm, key), lastChecksum: p.previous.SecretChecksum}
	// A request that is not known to be new counts as answered.
	f.lastRequest = f.hsm.syncRequest
	name := p.hsm.SecretName()
	if p.state.synced && p.state.uid == p.hsm.UID {
		f.lastRequest, name = p.state.request, p.state.secretName
	}
	if ref := p.previous.SecretRef; ref != nil {
		name = ref.Name
	}
	f.projected = name == p.hsm.SecretName() && wasProjected(p.previous)
	if p.secret == nil {
		return f, nil
	}
	f.secret = secretFactsOf(p.pair, key)
	sameData := f.secret.checksum == f.hsm.checksum && f.secret.secretType == f.hsm.secretType
	f.secret.owner, f.secret.ownerName, err = r.ownershipOf(ctx, p, sameData)
	if f.secret.owner == self && isStripped(p.secret) {
		f.secret.synced, f.secret.syncRequest = lastSynced(p.previous), f.lastRequest
	}
	return f, err
}

// wasProjected reports whether a status says that the Secret was made once. If a sync
// fails while the Secret is missing, what is left to say so is the checksum of its data,
// or, if it was to be left alone, the reason of Ready: a failure does not change that one.
func wasProjected(status v1alpha1.HSMSecretStatus) bool {
	return status.SecretRef != nil || status.SecretChecksum != "" || hasReason(status.Conditions, v1alpha1.HSMSecretReady, reasonSecretDeleted)
}

// lastSynced is the data that was last in sync, by the status: for a Secret that has lost
// the annotations that say it.
func lastSynced(status v1alpha1.HSMSecretStatus) dataVersion {
	if status.SecretChecksum != status.HSMChecksum {
		return dataVersion{}
	}
	return dataVersion{checksum: status.SecretChecksum}
}

func hsmFactsOf(h *v1alpha1.HSMSecret, key []byte) hsmFacts {
	f := hsmFacts{
		dataVersion:   dataVersion{revision: h.Status.DataVersion, checksum: checksum(key, h.UID, h.Data)},
		secretType:    h.Spec.SecretType,
		immutable:     isTrue(h.Immutable),
		autoSync:      h.Spec.AutoSync == nil || *h.Spec.AutoSync,
		bidirectional: h.Spec.SyncDirection != v1alpha1.SyncDirectionHSMToSecret,
		workloads:     len(h.Spec.RolloutRestartTargets) > 0,
		syncRequest:   h.Annotations[SyncAnnotation],
	}
	if revision, sum, ok := strings.Cut(h.Annotations[PushedAnnotation], " "); ok {
		f.pushed = dataVersion{revision, sum}
	}
	return f
}

func secretFactsOf(p pair, key []byte) *secretFacts {
	return &secretFacts{
		secretType:      p.secret.Type,
		immutable:       isTrue(p.secret.Immutable),
		checksum:        checksum(key, p.hsm.UID, p.secret.Data),
		synced:          dataVersion{p.secret.Annotations[RevisionAnnotation], p.secret.Annotations[ChecksumAnnotation]},
		syncRequest:     p.secret.Annotations[SyncAnnotation],
		restartPending:  p.secret.Annotations[RestartAnnotation] == restartPending,
		metadataCurrent: metadataFor(p.hsm).isCurrent(p.secret),
		terminating:     p.secret.DeletionTimestamp != nil,
		finalizers:      p.secret.Finalizers,
	}
}

// ownershipOf says whom the Secret belongs to, and the name of another HSMSecret if it
// belongs to that one. sameData says that it holds what the token holds.
func (r *reconciler) ownershipOf(ctx context.Context, p *pass, sameData bool) (ownership, string, error) {
	uid, name := types.UID(p.secret.Annotations[SourceUIDAnnotation]), p.secret.Annotations[SourceNameAnnotation]
	owner := ownerIn(p.secret)
	switch {
	case uid == p.hsm.UID, owner != nil && owner.UID == p.hsm.UID:
		return self, "", nil
	case isStripped(p.secret) && isIn(p.previous.SecretRef, p.secret):
		// Somebody has replaced all of it, as kubectl replace does. It is still the one that
		// was made.
		return self, "", nil
	case owner != nil && owner.Name == p.hsm.Name:
		// Two HSMSecrets of one name never live at once: that one is gone, and the
		// garbage collector would delete its Secret.
		return inherited, "", nil
	case name == "":
		return ownershipOfOthers(p.secret), "", nil
	case name == p.hsm.Name && sameData:
		// As above, but the Secret was retained.
		return inherited, "", nil
	}
	other := metadataOf(hsmSecretKind)
	err := r.cache.Get(ctx, client.ObjectKey{Namespace: p.hsm.Namespace, Name: name}, other)
	switch {
	case apierrors.IsNotFound(err), err == nil && other.UID != uid:
		// It is gone, and has left its Secret.
		return ownershipOfOthers(p.secret), "", nil
	case err != nil:
		return foreign, "", fmt.Errorf("look up HSMSecret %s: %w", name, err)
	case p.hsm.CreationTimestamp.Time.Before(other.CreationTimestamp.Time):
		return inherited, "", nil
	}
	wanted, err := r.isWanted(ctx, p.secret, name)
	switch {
	case err != nil:
		return foreign, "", err
	case !wanted:
		// It has another spec.secretName now, and will delete this Secret when it has made
		// that one. That one may be the Secret that this HSMSecret has: two that swap their
		// Secrets would wait for each other.
		return inherited, "", nil
	}
	return another, name, nil
}

// isWanted reports whether the HSMSecret of a name is to be projected into a Secret. It
// asks the API server, which answers without the token.
func (r *reconciler) isWanted(ctx context.Context, secret metav1.Object, name string) (bool, error) {
	wanting := metadataListOf(hsmSecretKind)
	err := r.client.List(ctx, wanting, client.InNamespace(secret.GetNamespace()),
		client.MatchingFields{metav1.ObjectNameField: name, secretNameField: secret.GetName()})
	if err != nil {
		return true, fmt.Errorf("look up spec.secretName of HSMSecret %s: %w", name, err)
	}
	return len(wanting.Items) > 0, nil
}

// isStripped reports whether nothing on a Secret says which HSMSecret it was made for.
func isStripped(secret *corev1.Secret) bool {
	return secret.Annotations[SourceUIDAnnotation] == "" && secret.Annotations[SourceNameAnnotation] == "" && ownerIn(secret) == nil
}

// isIn reports whether a status names this very Secret.
func isIn(ref *v1alpha1.SecretReference, secret *corev1.Secret) bool {
	return ref != nil && ref.UID != "" && ref.UID == secret.UID
}

func ownershipOfOthers(secret *corev1.Secret) ownership {
	if secret.Annotations[AdoptAnnotation] == "true" {
		return adoptable
	}
	return foreign
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

// editor returns who, of all but the controller, wrote data last, and when.
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
	// What cannot be decoded names no fields.
	_ = json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields)
	_, ok := fields["f:data"]
	return ok
}

// lastApplied returns when the controller applied the Secret last; nil if it never did.
func lastApplied(secret metav1.Object) *metav1.Time {
	for _, entry := range secret.GetManagedFields() {
		if entry.Manager == identity.FieldManager && entry.Operation == metav1.ManagedFieldsOperationApply {
			return entry.Time
		}
	}
	return nil
}

// hasStatus reports whether the controller's status is on an HSMSecret.
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
