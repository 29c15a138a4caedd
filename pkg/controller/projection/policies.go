// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"fmt"
	"strings"
)

// A policy returns a decision, or nil if it does not apply.
type policy func(facts) *decision

// policies are asked in this order. Each may rely on what those before it have excluded.
// Where none applies, tokenWins.
var policies = []policy{
	leaveSecretOfOthers,
	createMissingSecret,
	leaveSecretAlone,
	replaceUnchangeable,
	recordSameData,
	projectUneditedSecret,
	answerEdit,
}

// leaveSecretOfOthers: a Secret that belongs to somebody else is never touched.
func leaveSecretOfOthers(f facts) *decision {
	switch s := f.secret; {
	case s == nil:
		return nil
	case s.owner == another:
		return &decision{action: nothing, reason: reasonSecretTaken, message: fmt.Sprintf(
			"the Secret belongs to HSMSecret %s, which is not younger: choose another spec.secretName", s.ownerName)}
	case s.owner == foreign:
		return &decision{action: nothing, reason: reasonSecretExists,
			message: "a Secret of this name exists that was not made for this HSMSecret, or that an earlier HSMSecret of its name has left with other data: choose another spec.secretName, or let the Secret be overwritten by setting the annotation " + AdoptAnnotation + ": \"true\" on it"}
	}
	return nil
}

// createMissingSecret: a Secret that is missing is made, unless it was made before and is
// to be left alone.
func createMissingSecret(f facts) *decision {
	if f.secret != nil {
		return nil
	}
	if !f.hsm.autoSync && f.projected && f.hsm.syncRequest == f.lastRequest {
		return &decision{action: nothing, reason: reasonSecretDeleted,
			message: "the Secret was deleted, and spec.autoSync is false: set the annotation " + SyncAnnotation + " to a new value to have the Secret made again"}
	}
	changed := f.lastChecksum != "" && f.lastChecksum != f.hsm.checksum
	return &decision{action: create, reason: reasonSecretAbsent, dataChanged: changed && f.hsm.workloads}
}

// leaveSecretAlone: without autoSync the data of a Secret stays, whatever happens.
func leaveSecretAlone(f facts) *decision {
	h, s := f.hsm, f.secret
	if h.autoSync || s.owner != self || s.syncRequest != h.syncRequest {
		return nil
	}
	switch {
	case s.restartPending:
		return &decision{action: restart, reason: reasonContentChanged}
	case !s.metadataCurrent:
		return &decision{action: note, reason: reasonAutoSyncOff}
	case s.checksum == h.checksum:
		return inSync()
	}
	return &decision{action: nothing, reason: reasonAutoSyncOff,
		message: "token and Secret differ, and spec.autoSync is false: set the annotation " + SyncAnnotation + " to a new value to have them synced once"}
}

// replaceUnchangeable: the API server would refuse to change the Secret.
func replaceUnchangeable(f facts) *decision {
	h, s := f.hsm, f.secret
	switch {
	case s.secretType == h.secretType && (!s.immutable || s.checksum == h.checksum):
		return nil
	case s.terminating:
		return &decision{action: nothing, reason: reasonSecretTerminating, message: fmt.Sprintf(
			"the Secret cannot be changed to the type and data of the token: it is being deleted, and will be made again when its finalizers are gone: %s",
			strings.Join(s.finalizers, ", "))}
	}
	return &decision{action: replace, reason: reasonCannotChange}
}

// recordSameData: the data is the same; the rest may have to be written.
func recordSameData(f facts) *decision {
	h, s := f.hsm, f.secret
	if s.checksum != h.checksum {
		return nil
	}
	switch {
	case s.synced != h.dataVersion || s.syncRequest != h.syncRequest || !s.metadataCurrent:
		// An edit was pushed, or the same edit was made on both sides.
		edited := s.owner == self && s.synced.checksum != h.checksum && s.synced.revision != h.revision
		return &decision{action: note, reason: reasonRecorded, dataChanged: edited && h.workloads}
	case s.restartPending:
		return &decision{action: restart, reason: reasonContentChanged}
	}
	return inSync()
}

func inSync() *decision {
	return &decision{action: nothing, reason: reasonInSync, message: "token and Secret hold the same data"}
}

// projectUneditedSecret: nobody but the controller has written the Secret's data, or it
// does not count because the Secret is just being taken over.
func projectUneditedSecret(f facts) *decision {
	h, s := f.hsm, f.secret
	switch {
	case s.owner != self:
		return &decision{action: project, reason: reasonAdopted, dataChanged: h.workloads}
	case s.checksum == s.synced.checksum:
		return &decision{action: project, reason: reasonSourceChanged, dataChanged: h.workloads}
	}
	return nil
}

// answerEdit: others have written the Secret's data, and the token still holds what they
// have seen, or what they wrote before.
func answerEdit(f facts) *decision {
	h, s := f.hsm, f.secret
	tokenUnchanged := s.synced.revision == h.revision || s.synced.checksum == h.checksum ||
		h.pushed == dataVersion{s.synced.revision, h.checksum}
	switch {
	case !h.bidirectional || h.immutable:
		return &decision{action: project, reason: reasonReverted, dataChanged: h.workloads && !tokenUnchanged}
	case tokenUnchanged:
		return &decision{action: push, reason: reasonSecretEdited}
	}
	return nil
}

// tokenWins: both sides have changed. The token's data was acknowledged as durable, and
// is what a get shows.
func tokenWins(f facts) decision {
	return decision{action: project, reason: reasonBothChanged, dataChanged: f.hsm.workloads}
}
