// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// inStepFacts are those of a pair that is in step, with data "A" of revision 1.
func inStepFacts() facts {
	return facts{
		source: source{
			mark: mark{"1", "A"}, secretType: corev1.SecretTypeOpaque,
			autoSync: true, bidirectional: true,
		},
		target: &target{
			holder: us, secretType: corev1.SecretTypeOpaque,
			sum: "A", inStep: mark{"1", "A"}, dressed: true,
		},
		projected: true,
		lastSum:   "A",
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	type change = func(*facts)
	tokenIs := func(revision, sum string) change { return func(f *facts) { f.source.mark = mark{revision, sum} } }
	secretIs := func(sum string) change { return func(f *facts) { f.target.sum = sum } }
	noSecret := func(f *facts) { f.target = nil }
	neverProjected := func(f *facts) { f.target, f.projected, f.lastSum = nil, false, "" }
	oneWay := func(f *facts) { f.source.bidirectional = false }
	manual := func(f *facts) { f.source.autoSync = false }
	asked := func(f *facts) { f.source.request = "again" }
	honoured := func(f *facts) { f.target.request = "again" }
	workloads := func(f *facts) { f.source.workloads = true }
	heldBy := func(h holder) change { return func(f *facts) { f.target.holder, f.target.holderName = h, "other" } }
	undressed := func(f *facts) { f.target.dressed = false }
	pending := func(f *facts) { f.target.pending = true }
	immutableSource := func(f *facts) { f.source.immutable = true }
	immutableSecret := func(f *facts) { f.target.immutable = true }
	otherType := func(f *facts) { f.target.secretType = corev1.SecretTypeTLS }
	unmarked := func(f *facts) { f.target.inStep = mark{} }
	newKey := func(f *facts) { f.target.inStep.sum = "of another key" }
	pushed := func(revision, sum string) change { return func(f *facts) { f.source.pushed = mark{revision, sum} } }

	for _, c := range []struct {
		name    string
		changes []change
		action  action
		reason  string
		changed bool
	}{
		{"in step", nil, nothing, reasonInSync, false},
		{"never made", []change{neverProjected}, create, reasonSecretAbsent, false},
		{"never made, workloads", []change{neverProjected, workloads}, create, reasonSecretAbsent, false},
		{"deleted", []change{noSecret, workloads}, create, reasonSecretAbsent, false},
		{"deleted, and the token changed", []change{noSecret, workloads, tokenIs("2", "B")}, create, reasonSecretAbsent, true},
		{"renewed clothes", []change{undressed}, note, reasonRecorded, false},

		{"of a stranger", []change{heldBy(stranger)}, nothing, reasonSecretExists, false},
		{"of a stranger, same data", []change{heldBy(stranger), secretIs("A")}, nothing, reasonSecretExists, false},
		{"of a stranger, manual", []change{heldBy(stranger), manual}, nothing, reasonSecretExists, false},
		{"of another HSMSecret", []change{heldBy(another)}, nothing, reasonSecretTaken, false},
		{"of a younger HSMSecret", []change{heldBy(inherited), secretIs("B"), undressed}, project, reasonAdopted, false},
		{"adoptable", []change{heldBy(willing), secretIs("B"), undressed}, project, reasonAdopted, false},
		{"adoptable, same data", []change{heldBy(willing), undressed, unmarked}, note, reasonRecorded, false},
		{"adoptable, other type", []change{heldBy(willing), otherType, undressed}, replace, reasonCannotChange, false},
		{"adoptable, manual", []change{heldBy(willing), secretIs("B"), undressed, manual}, project, reasonAdopted, false},

		{"token changed", []change{tokenIs("2", "B")}, project, reasonSourceChanged, false},
		{"token changed, workloads", []change{tokenIs("2", "B"), workloads}, project, reasonSourceChanged, true},
		{"token changed, one way", []change{tokenIs("2", "B"), oneWay}, project, reasonSourceChanged, false},
		{"token changed there and back", []change{tokenIs("3", "A")}, note, reasonRecorded, false},
		{"token changed, Secret immutable", []change{tokenIs("2", "B"), immutableSecret}, replace, reasonCannotChange, false},
		{"Secret immutable", []change{immutableSecret}, nothing, reasonInSync, false},
		{"type differs", []change{otherType}, replace, reasonCannotChange, false},

		{"Secret edited", []change{secretIs("B")}, push, reasonSecretEdited, false},
		{"Secret edited, token there and back", []change{secretIs("B"), tokenIs("3", "A")}, push, reasonSecretEdited, false},
		{"Secret edited, one way", []change{secretIs("B"), oneWay}, project, reasonReverted, false},
		{"Secret edited, one way, workloads", []change{secretIs("B"), oneWay, workloads}, project, reasonReverted, false},
		{"Secret edited, token immutable", []change{secretIs("B"), immutableSource}, project, reasonReverted, false},
		{"edit has arrived", []change{secretIs("B"), tokenIs("2", "B")}, note, reasonRecorded, false},
		{"edit has arrived, workloads", []change{secretIs("B"), tokenIs("2", "B"), workloads}, note, reasonRecorded, true},
		{"edited again after a push that was not noted", []change{secretIs("C"), tokenIs("2", "B"), pushed("1", "B")}, push, reasonSecretEdited, false},
		{"edited again, token changed after the push", []change{secretIs("C"), tokenIs("3", "D"), pushed("1", "B")}, project, reasonBothChanged, false},
		{"edited again, push of an older projection", []change{secretIs("C"), tokenIs("3", "B"), pushed("0", "B")}, project, reasonBothChanged, false},

		{"both changed", []change{secretIs("C"), tokenIs("2", "B")}, project, reasonBothChanged, false},
		{"both changed, workloads", []change{secretIs("C"), tokenIs("2", "B"), workloads}, project, reasonBothChanged, true},
		{"both changed, one way", []change{secretIs("C"), tokenIs("2", "B"), oneWay}, project, reasonReverted, false},
		{"both changed, one way, workloads", []change{secretIs("C"), tokenIs("2", "B"), oneWay, workloads}, project, reasonReverted, true},

		{"unmarked, in step", []change{unmarked}, note, reasonRecorded, false},
		{"unmarked, differs", []change{unmarked, secretIs("B")}, project, reasonBothChanged, false},
		{"new key, in step", []change{newKey, workloads}, note, reasonRecorded, false},
		{"new key, Secret edited", []change{newKey, secretIs("B")}, push, reasonSecretEdited, false},

		{"workloads wait", []change{pending, workloads}, restart, reasonContentChanged, false},
		{"workloads wait, token changed again", []change{pending, workloads, tokenIs("2", "B")}, project, reasonSourceChanged, true},
		{"workloads wait, manual", []change{pending, workloads, manual}, restart, reasonContentChanged, false},

		{"manual, never made", []change{neverProjected, manual}, create, reasonSecretAbsent, false},
		{"manual, in step", []change{manual}, nothing, reasonInSync, false},
		{"manual, token changed", []change{manual, tokenIs("2", "B")}, nothing, reasonAutoSyncOff, false},
		{"manual, Secret edited", []change{manual, secretIs("B")}, nothing, reasonAutoSyncOff, false},
		{"manual, deleted", []change{manual, noSecret}, nothing, reasonSecretDeleted, false},
		{"manual, deleted, asked", []change{manual, noSecret, asked}, create, reasonSecretAbsent, false},
		{"manual, token changed, asked", []change{manual, tokenIs("2", "B"), asked}, project, reasonSourceChanged, false},
		{"manual, Secret edited, asked", []change{manual, secretIs("B"), asked}, push, reasonSecretEdited, false},
		{"manual, in step, asked", []change{manual, asked}, note, reasonRecorded, false},
		{"manual, token changed, honoured", []change{manual, tokenIs("2", "B"), asked, honoured}, nothing, reasonAutoSyncOff, false},
		{"manual, token changed, new owner", []change{manual, tokenIs("2", "B"), undressed}, note, reasonAutoSyncOff, false},
	} {
		f := inStepFacts()
		for _, change := range c.changes {
			change(&f)
		}
		got := decide(f)
		if got.action != c.action || got.reason != c.reason || got.changed != c.changed {
			t.Errorf("%s: got %s because %s, changed %t; want %s because %s, changed %t",
				c.name, got.action, got.reason, got.changed, c.action, c.reason, c.changed)
		}
		if (got.action == nothing) != (got.message != "") {
			t.Errorf("%s: %s with message %q", c.name, got.action, got.message)
		}
	}
}

// TestDecideComesToRest plays decisions on a model of token and Secret: from any
// facts, few actions lead to rest, and no edit is lost but by BothChanged.
func TestDecideComesToRest(t *testing.T) {
	t.Parallel()
	bools := []bool{false, true}
	sums := []string{"A", "B", "C"}
	for _, h := range []holder{us, inherited, willing, another, stranger} {
		for _, token := range sums {
			for _, secret := range sums {
				for bits := range 1 << 9 {
					bit := func(i int) bool { return bools[bits>>i&1] }
					f := inStepFacts()
					if token != "A" {
						f.source.mark = mark{"2", token}
					}
					f.target.sum, f.target.holder = secret, h
					f.source.autoSync, f.source.bidirectional, f.source.immutable = bit(0), bit(1), bit(2)
					f.source.workloads, f.target.pending, f.target.dressed = bit(3), bit(4), bit(5)
					f.target.immutable = bit(6)
					if bit(7) {
						f.source.request = "again"
					}
					if bit(8) {
						f.target = nil
					}
					playToRest(t, f)
				}
			}
		}
	}
}

func playToRest(t *testing.T, f facts) {
	t.Helper()
	start := f
	for range maxActs {
		d := decide(f)
		if f.target != nil {
			copied := *f.target
			f.target = &copied
		}
		switch d.action {
		case nothing:
			return
		case create:
			f.target = &target{holder: us, secretType: f.source.secretType, immutable: f.source.immutable, sum: f.source.sum, inStep: f.source.mark, request: f.source.request, pending: d.changed, dressed: true}
		case replace:
			f.target = nil
		case push:
			f.source.pushed = mark{f.target.inStep.revision, f.target.sum}
			f.source.mark = mark{"9", f.target.sum}
		case restart:
			f.target.pending = false
		case project:
			f.target.sum = f.source.sum
			fallthrough
		case note:
			if f.target.sum == f.source.sum {
				f.target.inStep = f.source.mark
			}
			f.target.holder, f.target.dressed, f.target.request = us, true, f.source.request
			f.target.pending = f.target.pending || d.changed
			f.target.immutable = f.target.immutable || f.source.immutable
		}
	}
	t.Errorf("no rest from %+v, %+v", start.source, start.target)
}
