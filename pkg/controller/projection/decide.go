// SPDX-License-Identifier: Apache-2.0

package projection

import (
	corev1 "k8s.io/api/core/v1"
)

// An action is one write, or none. The decision is made anew after each, so that a process
// that is killed between two of them has lost nothing.
//
//	          ┌─ Secret of others ───► Nothing (refused)
//	          ├─ left alone ─────────► Nothing
//	          ├─ no Secret ──────────► Create ──┐
//	facts ────┼─ cannot be changed ──► Replace ─┤   (Nothing, while it waits for finalizers)
//	          ├─ token changed ──────► Project ─┼──► facts ─► … ─► Note, Restart ─► Nothing (in sync)
//	          ├─ Secret edited ──────► Push ────┤
//	          └─ both changed ───────► Project ─┘
type action string

const (
	// nothing is to be written.
	nothing action = "Nothing"
	// create makes the Secret.
	create action = "Create"
	// project writes the data of the token to the Secret.
	project action = "Project"
	// push writes the data of the Secret to the token.
	push action = "Push"
	// note writes to the Secret's metadata which data is in sync; its data stays.
	note action = "Note"
	// replace deletes a Secret that cannot be changed; Create follows.
	replace action = "Replace"
	// restart restarts the workloads, and removes the annotation that asks for it.
	restart action = "Restart"
)

// The reasons of decisions. Those of nothing are also reasons of conditions.
const (
	reasonInSync         = "InSync"
	reasonAutoSyncOff    = "AutoSyncOff"
	reasonSecretDeleted  = "SecretDeleted"
	reasonSecretExists   = "SecretExists"
	reasonSecretTaken    = "SecretTaken"
	reasonSecretAbsent   = "SecretAbsent"
	reasonSourceChanged  = "SourceChanged"
	reasonAdopted        = "Adopted"
	reasonSecretEdited   = "SecretEdited"
	reasonReverted       = "Reverted"
	reasonBothChanged    = "BothChanged"
	reasonRecorded       = "Recorded"
	reasonCannotChange   = "CannotChange"
	reasonContentChanged = "ContentChanged"
	// reasonSecretTerminating: the Secret has to be made again, and cannot be deleted yet.
	reasonSecretTerminating = "SecretTerminating"
)

// ownership says whom a Secret belongs to.
type ownership string

const (
	// self: the HSMSecret that is synced.
	self ownership = "Self"
	// inherited: an HSMSecret of the same name that is gone, a younger one, or one that has
	// another spec.secretName now.
	inherited ownership = "Inherited"
	// adoptable: anybody, who allows that it is taken over.
	adoptable ownership = "Adoptable"
	// another: an HSMSecret that is not younger, and wants it.
	another ownership = "Another"
	// foreign: anybody else.
	foreign ownership = "Foreign"
)

// dataVersion names data by its revision on the token and by its checksum.
type dataVersion struct{ revision, checksum string }

// hsmFacts are what a decision needs of the HSMSecret.
type hsmFacts struct {
	dataVersion
	secretType    corev1.SecretType
	immutable     bool
	autoSync      bool
	bidirectional bool
	workloads     bool   // Some are to be restarted after changes.
	syncRequest   string // For one more sync.
	// pushed is the checksum that the last push has written, and the revision that the
	// Secret was in sync with before.
	pushed dataVersion
}

// secretFacts are what it needs of the Secret of the name that the HSMSecret wants.
type secretFacts struct {
	owner          ownership
	ownerName      string // The HSMSecret's, if another.
	secretType     corev1.SecretType
	immutable      bool
	checksum       string
	synced         dataVersion // The data that was last in sync.
	syncRequest    string      // The one that was last answered.
	restartPending bool        // Workloads are still to be restarted.
	// metadataCurrent: labels, owner and so on are as they should be.
	metadataCurrent bool
	terminating     bool // It is being deleted, and waits for its finalizers.
	finalizers      []string
}

// facts are all that a decision is made of.
type facts struct {
	hsm    hsmFacts
	secret *secretFacts // Nil: there is none.
	// projected: the Secret was made once. lastChecksum is that of its data then, if known;
	// lastRequest the request that was answered.
	projected                 bool
	lastChecksum, lastRequest string
}

// decision is one action, and why.
type decision struct {
	action action
	reason string
	// message explains the reason to people. It is set when nothing is to be done.
	message string
	// dataChanged: workloads use other data than before, and are to be restarted.
	dataChanged bool
}

// decide is a pure function: the first policy that applies decides.
func decide(f facts) decision {
	for _, policy := range policies {
		if d := policy(f); d != nil {
			return *d
		}
	}
	return tokenWins(f)
}

// answersEdit reports whether a decision answers what someone has done to the Secret.
func (f facts) answersEdit(d decision) bool {
	switch d.action {
	case push:
		return true
	case create:
		return f.projected
	case project:
		return d.reason == reasonReverted || d.reason == reasonBothChanged
	}
	return false
}
