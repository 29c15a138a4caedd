// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// inSyncFacts are those of a pair that is in sync, with data "A" of revision 1.
func inSyncFacts() facts {
	return facts{
		hsm: hsmFacts{
			dataVersion: dataVersion{"1", "A"}, secretType: corev1.SecretTypeOpaque,
			autoSync: true, bidirectional: true,
		},
		secret: &secretFacts{
			owner: self, secretType: corev1.SecretTypeOpaque,
			checksum: "A", synced: dataVersion{"1", "A"}, metadataCurrent: true,
		},
		projected:    true,
		lastChecksum: "A",
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	type change = func(*facts)
	tokenIs := func(revision, sum string) change {
		return func(f *facts) { f.hsm.dataVersion = dataVersion{revision, sum} }
	}
	secretIs := func(sum string) change { return func(f *facts) { f.secret.checksum = sum } }
	noSecret := func(f *facts) { f.secret = nil }
	neverProjected := func(f *facts) { f.secret, f.projected, f.lastChecksum = nil, false, "" }
	oneWay := func(f *facts) { f.hsm.bidirectional = false }
	manual := func(f *facts) { f.hsm.autoSync = false }
	asked := func(f *facts) { f.hsm.syncRequest = "again" }
	answered := func(f *facts) { f.secret.syncRequest = "again" }
	workloads := func(f *facts) { f.hsm.workloads = true }
	ownedBy := func(o ownership) change { return func(f *facts) { f.secret.owner, f.secret.ownerName = o, "other" } }
	outdatedMetadata := func(f *facts) { f.secret.metadataCurrent = false }
	pending := func(f *facts) { f.secret.restartPending = true }
	immutableSource := func(f *facts) { f.hsm.immutable = true }
	immutableSecret := func(f *facts) { f.secret.immutable = true }
	otherType := func(f *facts) { f.secret.secretType = corev1.SecretTypeTLS }
	terminating := func(f *facts) { f.secret.terminating, f.secret.finalizers = true, []string{"example.com/f"} }
	neverSynced := func(f *facts) { f.secret.synced = dataVersion{} }
	newKey := func(f *facts) { f.secret.synced.checksum = "of another key" }
	pushed := func(revision, sum string) change { return func(f *facts) { f.hsm.pushed = dataVersion{revision, sum} } }

	for _, c := range []struct {
		name    string
		changes []change
		action  action
		reason  string
		changed bool
	}{
		{"in sync", nil, nothing, reasonInSync, false},
		{"never made", []change{neverProjected}, create, reasonSecretAbsent, false},
		{"never made, workloads", []change{neverProjected, workloads}, create, reasonSecretAbsent, false},
		{"deleted", []change{noSecret, workloads}, create, reasonSecretAbsent, false},
		{"deleted, and the token changed", []change{noSecret, workloads, tokenIs("2", "B")}, create, reasonSecretAbsent, true},
		{"outdated metadata", []change{outdatedMetadata}, note, reasonRecorded, false},

		{"of others", []change{ownedBy(foreign)}, nothing, reasonSecretExists, false},
		{"of others, same data", []change{ownedBy(foreign), secretIs("A")}, nothing, reasonSecretExists, false},
		{"of others, manual", []change{ownedBy(foreign), manual}, nothing, reasonSecretExists, false},
		{"of another HSMSecret", []change{ownedBy(another)}, nothing, reasonSecretTaken, false},
		{"of a younger HSMSecret", []change{ownedBy(inherited), secretIs("B"), outdatedMetadata}, project, reasonAdopted, false},
		{"adoptable", []change{ownedBy(adoptable), secretIs("B"), outdatedMetadata}, project, reasonAdopted, false},
		{"adoptable, same data", []change{ownedBy(adoptable), outdatedMetadata, neverSynced}, note, reasonRecorded, false},
		{"adoptable, other type", []change{ownedBy(adoptable), otherType, outdatedMetadata}, replace, reasonCannotChange, false},
		{"adoptable, manual", []change{ownedBy(adoptable), secretIs("B"), outdatedMetadata, manual}, project, reasonAdopted, false},

		{"token changed", []change{tokenIs("2", "B")}, project, reasonSourceChanged, false},
		{"token changed, workloads", []change{tokenIs("2", "B"), workloads}, project, reasonSourceChanged, true},
		{"token changed, one way", []change{tokenIs("2", "B"), oneWay}, project, reasonSourceChanged, false},
		{"token changed there and back", []change{tokenIs("3", "A")}, note, reasonRecorded, false},
		{"token changed, Secret immutable", []change{tokenIs("2", "B"), immutableSecret}, replace, reasonCannotChange, false},
		{"Secret immutable", []change{immutableSecret}, nothing, reasonInSync, false},
		{"type differs", []change{otherType}, replace, reasonCannotChange, false},
		{"type differs, waits for finalizers", []change{otherType, terminating}, nothing, reasonSecretTerminating, false},
		{"token changed, Secret immutable, waits for finalizers", []change{tokenIs("2", "B"), immutableSecret, terminating}, nothing, reasonSecretTerminating, false},
		{"waits for finalizers, in sync", []change{terminating}, nothing, reasonInSync, false},
		{"waits for finalizers, can be changed", []change{terminating, tokenIs("2", "B")}, project, reasonSourceChanged, false},

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

		{"never synced, in sync", []change{neverSynced}, note, reasonRecorded, false},
		{"never synced, differs", []change{neverSynced, secretIs("B")}, project, reasonBothChanged, false},
		{"new key, in sync", []change{newKey, workloads}, note, reasonRecorded, false},
		{"new key, Secret edited", []change{newKey, secretIs("B")}, push, reasonSecretEdited, false},

		{"workloads wait", []change{pending, workloads}, restart, reasonContentChanged, false},
		{"workloads wait, token changed again", []change{pending, workloads, tokenIs("2", "B")}, project, reasonSourceChanged, true},
		{"workloads wait, manual", []change{pending, workloads, manual}, restart, reasonContentChanged, false},

		{"manual, never made", []change{neverProjected, manual}, create, reasonSecretAbsent, false},
		{"manual, in sync", []change{manual}, nothing, reasonInSync, false},
		{"manual, token changed", []change{manual, tokenIs("2", "B")}, nothing, reasonAutoSyncOff, false},
		{"manual, Secret edited", []change{manual, secretIs("B")}, nothing, reasonAutoSyncOff, false},
		{"manual, deleted", []change{manual, noSecret}, nothing, reasonSecretDeleted, false},
		{"manual, deleted, asked", []change{manual, noSecret, asked}, create, reasonSecretAbsent, false},
		{"manual, token changed, asked", []change{manual, tokenIs("2", "B"), asked}, project, reasonSourceChanged, false},
		{"manual, Secret edited, asked", []change{manual, secretIs("B"), asked}, push, reasonSecretEdited, false},
		{"manual, in sync, asked", []change{manual, asked}, note, reasonRecorded, false},
		{"manual, token changed, answered", []change{manual, tokenIs("2", "B"), asked, answered}, nothing, reasonAutoSyncOff, false},
		{"manual, token changed, new owner", []change{manual, tokenIs("2", "B"), outdatedMetadata}, note, reasonAutoSyncOff, false},
	} {
		f := inSyncFacts()
		for _, change := range c.changes {
			change(&f)
		}
		got := decide(f)
		if got.action != c.action || got.reason != c.reason || got.dataChanged != c.changed {
			t.Errorf("%s: got %s because %s, changed %t; want %s because %s, changed %t",
				c.name, got.action, got.reason, got.dataChanged, c.action, c.reason, c.changed)
		}
		if (got.action == nothing) != (got.message != "") {
			t.Errorf("%s: %s with message %q", c.name, got.action, got.message)
		}
	}
}

// TestDecideConverges plays decisions on a model of token and Secret: from any
// facts, few actions lead to a state that stays, and no edit is lost but by BothChanged.
func TestDecideConverges(t *testing.T) {
	t.Parallel()
	bools := []bool{false, true}
	sums := []string{"A", "B", "C"}
	for _, o := range []ownership{self, inherited, adoptable, another, foreign} {
		for _, token := range sums {
			for _, secret := range sums {
				for bits := range 1 << 10 {
					bit := func(i int) bool { return bools[bits>>i&1] }
					f := inSyncFacts()
					if token != "A" {
						f.hsm.dataVersion = dataVersion{"2", token}
					}
					f.secret.checksum, f.secret.owner = secret, o
					f.hsm.autoSync, f.hsm.bidirectional, f.hsm.immutable = bit(0), bit(1), bit(2)
					f.hsm.workloads, f.secret.restartPending, f.secret.metadataCurrent = bit(3), bit(4), bit(5)
					f.secret.immutable, f.secret.terminating = bit(6), bit(9)
					if bit(7) {
						f.hsm.syncRequest = "again"
					}
					if bit(8) {
						f.secret = nil
					}
					converges(t, f)
				}
			}
		}
	}
}

func converges(t *testing.T, f facts) {
	t.Helper()
	start := f
	for range maxActions {
		d := decide(f)
		if f.secret != nil {
			copied := *f.secret
			f.secret = &copied
		}
		switch d.action {
		case nothing:
			return
		case create:
			f.secret = &secretFacts{owner: self, secretType: f.hsm.secretType, immutable: f.hsm.immutable, checksum: f.hsm.checksum, synced: f.hsm.dataVersion, syncRequest: f.hsm.syncRequest, restartPending: d.dataChanged, metadataCurrent: true}
		case replace:
			f.secret = nil
		case push:
			f.hsm.pushed = dataVersion{f.secret.synced.revision, f.secret.checksum}
			f.hsm.dataVersion = dataVersion{"9", f.secret.checksum}
		case restart:
			f.secret.restartPending = false
		case project:
			f.secret.checksum = f.hsm.checksum
			fallthrough
		case note:
			if f.secret.checksum == f.hsm.checksum {
				f.secret.synced = f.hsm.dataVersion
			}
			f.secret.owner, f.secret.metadataCurrent, f.secret.syncRequest = self, true, f.hsm.syncRequest
			f.secret.restartPending = f.secret.restartPending || d.dataChanged
			f.secret.immutable = f.secret.immutable || f.hsm.immutable
		}
	}
	t.Errorf("does not converge from %+v, %+v", start.hsm, start.secret)
}
