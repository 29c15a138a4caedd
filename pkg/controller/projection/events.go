// SPDX-License-Identifier: Apache-2.0

package projection

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// The reasons of events.
const (
	eventCreated      = "Created"
	eventUpdated      = "Updated"
	eventAdopted      = "Adopted"
	eventPushedBack   = "PushedBack"
	eventReverted     = "Reverted"
	eventReplaced     = "Replaced"
	eventRestarted    = "Restarted"
	eventRemoved      = "Removed"
	eventConflict     = "Conflict"
	eventSyncFailed   = "SyncFailed"
	eventRecovered    = "Recovered"
	eventRestartFails = "RestartFailed"
)

// reference names an HSMSecret in an event.
func reference(h *v1alpha1.HSMSecret) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: hsmSecretKind.GroupVersion().String(), Kind: hsmSecretKind.Kind,
		Namespace: h.Namespace, Name: h.Name, UID: h.UID, ResourceVersion: h.ResourceVersion,
	}
}

// secretReference names a Secret in an event.
func secretReference(secret *corev1.Secret) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: secretKind.GroupVersion().String(), Kind: secretKind.Kind,
		Namespace: secret.Namespace, Name: secret.Name, UID: secret.UID, ResourceVersion: secret.ResourceVersion,
	}
}

// both tells an event to those who look at the HSMSecret, and to those who look
// at the Secret.
func (r *reconciler) both(o *outcome, secret *corev1.Secret, eventType, reason, format string, args ...any) {
	r.recorder.Eventf(reference(o.hsm), eventType, reason, format, args...)
	r.recorder.Eventf(secretReference(secret), eventType, reason, format, args...)
}

// tellAct tells of what was just done. before is the pair before it.
func (r *reconciler) tellAct(d decision, before pair, o *outcome) {
	hsm, secret := o.hsm.Name, o.secret
	switch {
	case d.action == create:
		r.both(o, secret, corev1.EventTypeNormal, eventCreated, "Secret %s was made from HSMSecret %s", secret.Name, hsm)
	case d.action == push:
		who, _ := editor(secret)
		r.both(o, secret, corev1.EventTypeNormal, eventPushedBack, "The data of Secret %s, edited by %s, was written to the token of HSMSecret %s", secret.Name, who, hsm)
	case d.action == replace:
		r.both(o, before.secret, corev1.EventTypeNormal, eventReplaced, "Secret %s cannot be changed to the type and data of HSMSecret %s: it was deleted, to be made anew", before.secret.Name, hsm)
	case d.action == restart:
		r.both(o, secret, corev1.EventTypeNormal, eventRestarted, "The workloads of spec.rolloutRestartTargets were restarted for new data of Secret %s", secret.Name)
	case d.reason == reasonBothChanged:
		r.both(o, secret, corev1.EventTypeWarning, eventConflict, "%s", o.lost)
	case d.reason == reasonReverted:
		who, _ := editor(before.secret)
		r.both(o, secret, corev1.EventTypeNormal, eventReverted, "Secret %s, edited by %s, was brought back to the data of HSMSecret %s", secret.Name, who, hsm)
	case d.reason == reasonAdopted:
		r.both(o, secret, corev1.EventTypeNormal, eventAdopted, "Secret %s was taken over by HSMSecret %s", secret.Name, hsm)
	case d.action == project:
		r.both(o, secret, corev1.EventTypeNormal, eventUpdated, "Secret %s was brought to the data of HSMSecret %s", secret.Name, hsm)
	}
}

// tell tells of what has become of the pair, where that is new.
func (r *reconciler) tell(m *memory, o *outcome, previous v1alpha1.HSMSecretStatus) {
	switch {
	case o.refused():
		if !hasReason(previous.Conditions, v1alpha1.HSMSecretConflict, o.final.reason) {
			r.both(o, o.secret, corev1.EventTypeWarning, eventConflict, "HSMSecret %s is not projected into Secret %s: %s", o.hsm.Name, o.secret.Name, o.final.message)
		}
	case m.failing || previous.SyncStatus == v1alpha1.SyncStatusError:
		r.recorder.Eventf(reference(o.hsm), corev1.EventTypeNormal, eventRecovered, "Syncing works again")
		if o.secret != nil {
			r.recorder.Eventf(secretReference(o.secret), corev1.EventTypeNormal, eventRecovered, "Syncing works again")
		}
	}
}

// tellRemoved tells of a Secret that was made under another name.
func (r *reconciler) tellRemoved(o *outcome, former *corev1.Secret) {
	r.both(o, former, corev1.EventTypeNormal, eventRemoved, "Secret %s was deleted: HSMSecret %s is projected into Secret %s now", former.Name, o.hsm.Name, o.secret.Name)
}

// tellFailure tells of a sync that failed. What could not be read is known from
// before.
func (r *reconciler) tellFailure(name types.NamespacedName, m *memory, o *outcome) {
	h := &v1alpha1.HSMSecret{}
	h.Namespace, h.Name, h.UID = name.Namespace, name.Name, m.uid
	if o.hsm != nil {
		h = o.hsm
	}
	message := truncated(o.err.Error())
	r.recorder.Eventf(reference(h), corev1.EventTypeWarning, eventSyncFailed, "Syncing failed: %s", message)
	if m.secret.uid == "" {
		return
	}
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name, secret.UID = name.Namespace, m.secretName, m.secret.uid
	r.recorder.Eventf(secretReference(secret), corev1.EventTypeWarning, eventSyncFailed, "Syncing failed: %s", message)
}
