// SPDX-License-Identifier: Apache-2.0

package projection

import (
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
	// reasonUnavailable: token or API server are away.
	reasonUnavailable = "Unavailable"

	// maxMessage is the length of messages in bytes; a condition takes 32 KiB.
	maxMessage = 1024
)

// outcome is what became of one HSMSecret that was looked at.
type outcome struct {
	pair
	facts facts
	final decision
	did   []decision
	// lost says whose edit lost, when both sides had changed.
	lost string
	err  error
}

// moved tells whether data went from one side to the other.
func (o *outcome) moved() bool {
	return slices.ContainsFunc(o.did, func(d decision) bool {
		return d.action == create || d.action == project || d.action == push
	})
}

// refused tells whether the Secret is of others.
func (o *outcome) refused() bool {
	return o.final.reason == reasonSecretExists || o.final.reason == reasonSecretTaken
}

// failureReason sums up an error.
func failureReason(err error) string {
	if isAway(err) {
		return reasonUnavailable
	}
	return reasonSyncFailed
}

// status gives the controller's part of the status, given the previous one. What
// has not changed stays as it was, so equal statuses mean that nothing happened.
func (o *outcome) status(previous v1alpha1.HSMSecretStatus, now time.Time) v1alpha1.HSMSecretStatus {
	status := *ours(previous).DeepCopy()
	set := func(conditionType string, value metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: conditionType, Status: value, Reason: reason, Message: truncated(message),
			ObservedGeneration: o.hsm.Generation, LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(),
		})
	}
	status.ObservedGeneration = o.hsm.Generation
	if o.err != nil {
		reason := failureReason(o.err)
		status.SyncStatus = v1alpha1.SyncStatusError
		status.LastError = truncated(o.err.Error())
		set(v1alpha1.HSMSecretSynced, metav1.ConditionFalse, reason, o.err.Error())
		if status.SecretRef == nil {
			set(v1alpha1.HSMSecretReady, metav1.ConditionFalse, reason, o.err.Error())
		}
		if meta.FindStatusCondition(status.Conditions, v1alpha1.HSMSecretConflict) == nil {
			set(v1alpha1.HSMSecretConflict, metav1.ConditionFalse, reasonNoConflict, "")
		}
		return status
	}

	reason, message, refused := o.final.reason, o.final.message, o.refused()
	status.LastError, status.SecretRef, status.SecretChecksum = "", nil, ""
	status.HSMChecksum = o.facts.source.sum
	if o.secret != nil && !refused {
		status.SecretRef = &v1alpha1.SecretReference{Name: o.secret.Name, Namespace: o.secret.Namespace, UID: o.secret.UID}
		status.SecretChecksum = o.facts.target.sum
	}
	// What a former look has moved, but could not tell, counts as well.
	moved := o.moved() || reason == reasonInSync && previous.HSMChecksum != "" && previous.HSMChecksum != o.facts.source.sum
	if moved {
		status.LastSyncTime = new(metav1.NewTime(now).Rfc3339Copy())
	} else if status.LastSyncTime == nil && status.SecretRef != nil {
		// The status was lost: the Secret remembers.
		status.LastSyncTime = applied(o.secret)
	}

	switch {
	case reason == reasonInSync:
		status.SyncStatus = v1alpha1.SyncStatusInSync
		set(v1alpha1.HSMSecretSynced, metav1.ConditionTrue, reason, message)
		set(v1alpha1.HSMSecretReady, metav1.ConditionTrue, reasonProjected, "the Secret can be used")
	case refused:
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
	}

	switch {
	case refused:
		set(v1alpha1.HSMSecretConflict, metav1.ConditionTrue, reason, message)
	case o.lost != "":
		set(v1alpha1.HSMSecretConflict, metav1.ConditionTrue, reasonBothChanged, o.lost)
	case moved || !hasReason(status.Conditions, v1alpha1.HSMSecretConflict, reasonBothChanged):
		// A conflict that was settled is told until the next sync.
		set(v1alpha1.HSMSecretConflict, metav1.ConditionFalse, reasonNoConflict, "")
	}
	return status
}

// ours is the part of a status that the controller writes.
func ours(status v1alpha1.HSMSecretStatus) *v1alpha1.HSMSecretStatus {
	status.DataVersion, status.DeviceSyncStatus, status.PrimaryDevice = "", nil, ""
	return &status
}

// isSame tells whether two statuses are the same for the controller.
func isSame(a, b v1alpha1.HSMSecretStatus) bool {
	return equality.Semantic.DeepEqual(ours(a), ours(b))
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
