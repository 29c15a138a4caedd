// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

const (
	reasonNoConflict = "NoConflict"
	reasonProjected  = "Projected"
	reasonSyncFailed = "SyncFailed"
	// reasonUnavailable: the token or an API server is away.
	reasonUnavailable = "Unavailable"
	// reasonEditedTooOften: others edit or delete the Secret again and again.
	reasonEditedTooOften = "EditedTooOften"

	// maxMessage is the length of messages in bytes; a condition takes 32 KiB.
	maxMessage = 1024
)

// movedData reports whether data went from one side to the other.
func (p *pass) movedData() bool {
	return slices.ContainsFunc(p.done, func(d decision) bool {
		return d.action == create || d.action == project || d.action == push
	})
}

// isForeign reports whether the Secret belongs to others.
func (p *pass) isForeign() bool {
	return p.final.reason == reasonSecretExists || p.final.reason == reasonSecretTaken
}

// failureReason is the reason in conditions and metrics.
func failureReason(err error) string {
	switch {
	case isAway(err):
		return reasonUnavailable
	case errors.Is(err, errEditedTooOften):
		return reasonEditedTooOften
	}
	return reasonSyncFailed
}

// status returns the controller's part of the status. What has not changed stays as it was
// in the previous one, so equal statuses mean that nothing happened.
func (p *pass) status(now time.Time) v1alpha1.HSMSecretStatus {
	status := *controllersPart(p.previous).DeepCopy()
	set := func(conditionType string, value metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: conditionType, Status: value, Reason: reason, Message: truncated(message),
			ObservedGeneration: p.hsm.Generation, LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(),
		})
	}
	status.ObservedGeneration = p.hsm.Generation
	if p.err != nil {
		reason := failureReason(p.err)
		status.SyncStatus = v1alpha1.SyncStatusError
		status.LastError = truncated(p.err.Error())
		if p.secretRead && p.secret == nil {
			status.SecretRef = nil
		}
		set(v1alpha1.HSMSecretSynced, metav1.ConditionFalse, reason, p.err.Error())
		// That a person has deleted the Secret stays true, and is known from here alone.
		if status.SecretRef == nil && !hasReason(status.Conditions, v1alpha1.HSMSecretReady, reasonSecretDeleted) {
			set(v1alpha1.HSMSecretReady, metav1.ConditionFalse, reason, p.err.Error())
		}
		if meta.FindStatusCondition(status.Conditions, v1alpha1.HSMSecretConflict) == nil {
			set(v1alpha1.HSMSecretConflict, metav1.ConditionFalse, reasonNoConflict, "")
		}
		return status
	}

	reason, message, isForeign := p.final.reason, p.final.message, p.isForeign()
	status.LastError, status.SecretRef, status.SecretChecksum = "", nil, ""
	status.HSMChecksum = p.facts.hsm.checksum
	if p.secret != nil && !isForeign {
		status.SecretRef = &v1alpha1.SecretReference{Name: p.secret.Name, Namespace: p.secret.Namespace, UID: p.secret.UID}
		status.SecretChecksum = p.facts.secret.checksum
	}
	// What a former pass has moved, but could not write into the status, counts as well.
	moved := p.movedData() || reason == reasonInSync && p.previous.HSMChecksum != "" && p.previous.HSMChecksum != p.facts.hsm.checksum
	if moved {
		status.LastSyncTime = new(metav1.NewTime(now).Rfc3339Copy())
	} else if status.LastSyncTime == nil && status.SecretRef != nil {
		// The status was lost: managedFields of the Secret have the time.
		status.LastSyncTime = lastApplied(p.secret)
	}

	switch {
	case reason == reasonInSync:
		status.SyncStatus = v1alpha1.SyncStatusInSync
		set(v1alpha1.HSMSecretSynced, metav1.ConditionTrue, reason, message)
		set(v1alpha1.HSMSecretReady, metav1.ConditionTrue, reasonProjected, "the Secret can be used")
	case isForeign:
		status.SyncStatus = v1alpha1.SyncStatusError
		status.LastError = message
		set(v1alpha1.HSMSecretSynced, metav1.ConditionFalse, reason, message)
		set(v1alpha1.HSMSecretReady, metav1.ConditionFalse, reason, message)
	case reason == reasonAutoSyncOff:
		status.SyncStatus = v1alpha1.SyncStatusOutOfSync
		set(v1alpha1.HSMSecretSynced, metav1.ConditionFalse, reason, message)
		set(v1alpha1.HSMSecretReady, metav1.ConditionTrue, reasonProjected, "the Secret can be used")
	case reason == reasonSecretDeleted:
		status.SyncStatus = v1alpha1.SyncStatusOutOfSync
		set(v1alpha1.HSMSecretSynced, metav1.ConditionFalse, reason, message)
		set(v1alpha1.HSMSecretReady, metav1.ConditionFalse, reason, message)
	default: // reasonSecretTerminating, and whatever else keeps the sync from its end.
		status.SyncStatus = v1alpha1.SyncStatusOutOfSync
		status.LastError = message
		set(v1alpha1.HSMSecretSynced, metav1.ConditionFalse, reason, message)
		set(v1alpha1.HSMSecretReady, metav1.ConditionFalse, reason, message)
	}

	switch {
	case isForeign:
		set(v1alpha1.HSMSecretConflict, metav1.ConditionTrue, reason, message)
	case p.lostEdit != "":
		set(v1alpha1.HSMSecretConflict, metav1.ConditionTrue, reasonBothChanged, p.lostEdit)
	case moved || !hasReason(status.Conditions, v1alpha1.HSMSecretConflict, reasonBothChanged):
		// A conflict is shown until the next sync that moves data.
		set(v1alpha1.HSMSecretConflict, metav1.ConditionFalse, reasonNoConflict, "")
	}
	return status
}

// controllersPart is the part of a status that the controller writes.
func controllersPart(status v1alpha1.HSMSecretStatus) *v1alpha1.HSMSecretStatus {
	status.HSMPath, status.DataVersion, status.DeviceSyncStatus, status.PrimaryDevice = "", "", nil, ""
	return &status
}

// isSame reports whether two statuses are the same for the controller.
func isSame(a, b v1alpha1.HSMSecretStatus) bool {
	return equality.Semantic.DeepEqual(controllersPart(a), controllersPart(b))
}

// lostEdit says whose edit was overwritten, and when. It never says what was
// edited.
func lostEdit(p pair, now time.Time) string {
	who, when := editor(p.secret)
	edited := "an edit"
	if !when.IsZero() {
		edited += " at " + when.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("token and Secret both changed: %s of the Secret by %s was overwritten at %s by the data of the token; make it again if it is still wanted",
		edited, who, now.UTC().Format(time.RFC3339))
}

func truncated(message string) string {
	if len(message) > maxMessage {
		return message[:maxMessage-3] + "..."
	}
	return message
}
