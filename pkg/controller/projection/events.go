// SPDX-License-Identifier: Apache-2.0

package projection

import (
	corev1 "k8s.io/api/core/v1"

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

// recordBoth makes an Event of the HSMSecret, and the same of the Secret.
func (r *reconciler) recordBoth(p *pass, secret *corev1.Secret, eventType, reason, format string, args ...any) {
	r.recorder.Eventf(reference(p.hsm), eventType, reason, format, args...)
	r.recorder.Eventf(secretReference(secret), eventType, reason, format, args...)
}

// recordAction makes the Events of an action. before is the pair before it.
func (r *reconciler) recordAction(d decision, before pair, p *pass) {
	hsm, secret := p.hsm.Name, p.secret
	switch {
	case d.action == create:
		r.recordBoth(p, secret, corev1.EventTypeNormal, eventCreated, "Secret %s was made from HSMSecret %s", secret.Name, hsm)
	case d.action == push:
		who, _ := editor(secret)
		r.recordBoth(p, secret, corev1.EventTypeNormal, eventPushedBack, "The data of Secret %s, edited by %s, was written to the token of HSMSecret %s", secret.Name, who, hsm)
	case d.action == replace:
		r.recordBoth(p, before.secret, corev1.EventTypeNormal, eventReplaced, "Secret %s cannot be changed to the type and data of HSMSecret %s: it was deleted, and is made again", before.secret.Name, hsm)
	case d.action == restart:
		r.recordBoth(p, secret, corev1.EventTypeNormal, eventRestarted, "The workloads of spec.rolloutRestartTargets were restarted for new data of Secret %s", secret.Name)
	case d.reason == reasonBothChanged:
		r.recordBoth(p, secret, corev1.EventTypeWarning, eventConflict, "%s", p.lostEdit)
	case d.reason == reasonReverted:
		who, _ := editor(before.secret)
		r.recordBoth(p, secret, corev1.EventTypeNormal, eventReverted, "Secret %s, edited by %s, was reset to the data of HSMSecret %s", secret.Name, who, hsm)
	case d.reason == reasonAdopted:
		r.recordBoth(p, secret, corev1.EventTypeNormal, eventAdopted, "Secret %s was taken over by HSMSecret %s", secret.Name, hsm)
	case d.action == project:
		r.recordBoth(p, secret, corev1.EventTypeNormal, eventUpdated, "Secret %s was updated with the data of HSMSecret %s", secret.Name, hsm)
	}
}

// recordOutcome makes the Events of a pass that has succeeded, if its outcome is new.
func (r *reconciler) recordOutcome(p *pass) {
	switch {
	case p.isForeign():
		if !hasReason(p.previous.Conditions, v1alpha1.HSMSecretConflict, p.final.reason) {
			r.recordBoth(p, p.secret, corev1.EventTypeWarning, eventConflict, "HSMSecret %s is not projected into Secret %s: %s", p.hsm.Name, p.secret.Name, p.final.message)
		}
	case p.state.failureReported || p.previous.SyncStatus == v1alpha1.SyncStatusError:
		r.recorder.Eventf(reference(p.hsm), corev1.EventTypeNormal, eventRecovered, "Syncing works again")
		if p.secret != nil {
			r.recorder.Eventf(secretReference(p.secret), corev1.EventTypeNormal, eventRecovered, "Syncing works again")
		}
	}
}

// recordRemoved makes the Events of a Secret that was made under another name.
func (r *reconciler) recordRemoved(p *pass, former *corev1.Secret) {
	r.recordBoth(p, former, corev1.EventTypeNormal, eventRemoved, "Secret %s was deleted: HSMSecret %s is projected into Secret %s now", former.Name, p.hsm.Name, p.secret.Name)
}

// recordFailure makes the Events of a pass that has failed. What could not be read is
// known from the pass before.
func (r *reconciler) recordFailure(p *pass) {
	h, last := &v1alpha1.HSMSecret{}, p.state
	h.Namespace, h.Name, h.UID = p.name.Namespace, p.name.Name, last.uid
	if p.hsm != nil {
		h = p.hsm
	}
	message := truncated(p.err.Error())
	r.recorder.Eventf(reference(h), corev1.EventTypeWarning, eventSyncFailed, "Syncing failed: %s", message)
	if last.secret.uid == "" {
		return
	}
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name, secret.UID = p.name.Namespace, last.secretName, last.secret.uid
	r.recorder.Eventf(secretReference(secret), corev1.EventTypeWarning, eventSyncFailed, "Syncing failed: %s", message)
}
