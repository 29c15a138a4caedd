// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// An action is one write, or none. What is to be done is decided anew after each,
// so a process that is killed between two of them has lost nothing.
//
//	          ┌──────────── absent ───► Create ─┐
//	          │                                 │
//	facts ────┼─ Secret is of others ──► Nothing│ (refused)
//	          ├─ left alone ───────────► Nothing│
//	          ├─ cannot be changed ────► Replace│
//	          ├─ token changed ────────► Project┼──► facts ─► … ─► Note, Restart ─► Nothing (in step)
//	          ├─ Secret edited ────────► Push ──┤
//	          └─ both changed ─────────► Project┘
type action string

const (
	// nothing is to be written.
	nothing action = "Nothing"
	// create makes the Secret.
	create action = "Create"
	// project brings the Secret to the data of the token.
	project action = "Project"
	// push writes the data of the Secret to the token.
	push action = "Push"
	// note writes on the Secret what it is in step with; its data stays.
	note action = "Note"
	// replace deletes a Secret that cannot be changed; then it is absent.
	replace action = "Replace"
	// restart restarts the workloads, and takes the note off the Secret.
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
)

// holder tells whose a Secret is.
type holder int

const (
	// us: the HSMSecret that is decided on.
	us holder = iota
	// inherited: an HSMSecret of the same name that is gone, or a younger one.
	inherited
	// willing: anybody's, who lets it be adopted.
	willing
	// another: an HSMSecret that is not younger.
	another
	// stranger: anybody's.
	stranger
)

// mark names data: by its revision on the token, and by its checksum.
type mark struct{ revision, sum string }

// source is what a decision needs of an HSMSecret.
type source struct {
	mark
	secretType    corev1.SecretType
	immutable     bool
	autoSync      bool
	bidirectional bool
	workloads     bool   // Some are to be restarted.
	request       string // For one more sync.
	pushed        mark   // The sum that the last push wrote, the revision that was projected before.
}

// target is what it needs of the Secret of that name.
type target struct {
	holder     holder
	holderName string // Of another.
	secretType corev1.SecretType
	immutable  bool
	sum        string
	inStep     mark   // Of the data that was last in step.
	request    string // That was last honoured.
	pending    bool   // Workloads are still to be restarted.
	dressed    bool   // Labels, owner and so on are as they should be.
}

// facts are all that a decision is made of.
type facts struct {
	source source
	target *target // Nil: there is no such Secret.
	// projected: the Secret was made once. lastSum is that of its data, if known;
	// lastRequest the request that was honoured.
	projected            bool
	lastSum, lastRequest string
}

// decision is one action, and why.
type decision struct {
	action action
	reason string
	// message says it to people. It is set when nothing is to be done.
	message string
	// changed: the data of the Secret is other than before, so workloads are to be
	// restarted.
	changed bool
}

// policies are asked in order; the first that speaks decides. Each may rely on
// what those before it have excluded.
var policies = []func(facts) *decision{
	ofOthers,
	absent,
	leftAlone,
	cannotChange,
	inStep,
	unedited,
	edited,
}

// decide is a pure function.
func decide(f facts) decision {
	for _, policy := range policies {
		if d := policy(f); d != nil {
			return *d
		}
	}
	// The token wins: its data was acknowledged as durable, and is what get shows.
	return decision{action: project, reason: reasonBothChanged, changed: f.source.workloads}
}

// isAnswer tells whether a decision answers what someone has done to the Secret.
func (f facts) isAnswer(d decision) bool {
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

// ofOthers: a Secret that belongs to somebody else is never touched.
func ofOthers(f facts) *decision {
	switch t := f.target; {
	case t == nil:
		return nil
	case t.holder == another:
		return &decision{action: nothing, reason: reasonSecretTaken, message: fmt.Sprintf(
			"the Secret is that of HSMSecret %s, which is not younger: choose another spec.secretName", t.holderName)}
	case t.holder == stranger:
		return &decision{action: nothing, reason: reasonSecretExists,
			message: "a Secret of this name exists and was not made for this HSMSecret: choose another spec.secretName, or let it be overwritten by the annotation " + AdoptAnnotation + ": \"true\" on the Secret"}
	}
	return nil
}

// absent: a Secret that is missing is made, unless it was made before and is to
// be left alone.
func absent(f facts) *decision {
	if f.target != nil {
		return nil
	}
	if !f.source.autoSync && f.projected && f.source.request == f.lastRequest {
		return &decision{action: nothing, reason: reasonSecretDeleted,
			message: "the Secret was deleted, and spec.autoSync is false: set the annotation " + SyncAnnotation + " to a new value to have it made again"}
	}
	changed := f.lastSum != "" && f.lastSum != f.source.sum
	return &decision{action: create, reason: reasonSecretAbsent, changed: changed && f.source.workloads}
}

// leftAlone: without autoSync the data of a Secret stays, whatever happens.
func leftAlone(f facts) *decision {
	s, t := f.source, f.target
	if s.autoSync || t.holder != us || t.request != s.request {
		return nil
	}
	switch {
	case t.pending:
		return &decision{action: restart, reason: reasonContentChanged}
	case !t.dressed:
		return &decision{action: note, reason: reasonAutoSyncOff}
	case t.sum == s.sum:
		return &decision{action: nothing, reason: reasonInSync, message: "token and Secret hold the same data"}
	}
	return &decision{action: nothing, reason: reasonAutoSyncOff,
		message: "token and Secret differ, and spec.autoSync is false: set the annotation " + SyncAnnotation + " to a new value to have them synced once"}
}

// cannotChange: the API server would refuse the change.
func cannotChange(f facts) *decision {
	s, t := f.source, f.target
	if t.secretType != s.secretType || t.immutable && t.sum != s.sum {
		return &decision{action: replace, reason: reasonCannotChange}
	}
	return nil
}

// inStep: the data is the same, the rest may have to be written.
func inStep(f facts) *decision {
	s, t := f.source, f.target
	if t.sum != s.sum {
		return nil
	}
	switch {
	case t.inStep != s.mark || t.request != s.request || !t.dressed:
		// It has got there by an edit that was pushed, or that was made on both sides.
		edited := t.holder == us && t.inStep.sum != s.sum && t.inStep.revision != s.revision
		return &decision{action: note, reason: reasonRecorded, changed: edited && s.workloads}
	case t.pending:
		return &decision{action: restart, reason: reasonContentChanged}
	}
	return &decision{action: nothing, reason: reasonInSync, message: "token and Secret hold the same data"}
}

// unedited: nobody but us has written the Secret's data, or it does not count.
func unedited(f facts) *decision {
	s, t := f.source, f.target
	switch {
	case t.holder != us:
		return &decision{action: project, reason: reasonAdopted, changed: s.workloads}
	case t.sum == t.inStep.sum:
		return &decision{action: project, reason: reasonSourceChanged, changed: s.workloads}
	}
	return nil
}

// edited: the Secret's data was written by others, and the token's is still what
// they have seen, or what they wrote before.
func edited(f facts) *decision {
	s, t := f.source, f.target
	unchanged := t.inStep.revision == s.revision || t.inStep.sum == s.sum ||
		s.pushed == mark{t.inStep.revision, s.sum}
	switch {
	case !s.bidirectional || s.immutable:
		return &decision{action: project, reason: reasonReverted, changed: s.workloads && !unchanged}
	case unchanged:
		return &decision{action: push, reason: reasonSecretEdited}
	}
	return nil
}
