// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

func TestDecideTask(t *testing.T) {
	t.Parallel()
	now := time.Now()
	// show is a pair that was synced, as the watches show it.
	type show struct {
		observation
		metadata *metav1.PartialObjectMetadata
	}
	type change = func(*show)
	lag := func(s *show) { s.state.watchesCurrentAt = now.Add(time.Second) }
	due := func(s *show) { s.state.nextCheck = now }
	isForeign := func(s *show) { s.state.foreign = true }
	changed := func(s *show) { s.metadata.Generation = 8 }
	noSecret := func(s *show) { s.secret = version{} }
	statusLost := func(s *show) { s.metadata.ManagedFields = nil }
	for _, c := range []struct {
		name    string
		changes []change
		want    task
	}{
		{"gone", []change{func(s *show) { s.metadata = nil }}, taskForget},
		{"nothing new", nil, taskNone},
		{"never synced", []change{func(s *show) { s.state = &syncState{} }}, taskSync},
		{"failed", []change{func(s *show) { s.state.stale = true }}, taskSync},
		{"made anew", []change{func(s *show) { s.metadata.UID = "other" }}, taskSync},
		{"changed", []change{changed}, taskSync},
		{"shown as before our push", []change{func(s *show) { s.metadata.Generation = 6 }}, taskNone},
		{"labelled", []change{func(s *show) { s.metadata.Labels = map[string]string{"a": "b"} }}, taskNone},
		{"asked", []change{func(s *show) { s.metadata.Annotations = map[string]string{SyncAnnotation: "again"} }}, taskSync},

		{"Secret edited", []change{func(s *show) { s.secret.resourceVersion = "101" }}, taskSync},
		{"Secret shown as before our write", []change{func(s *show) { s.secret.resourceVersion = "99" }}, taskNone},
		{"Secret deleted", []change{noSecret}, taskSync},
		{"Secret not shown yet", []change{noSecret, lag}, taskAwaitWatch},
		{"Secret shown, and deleted", []change{noSecret, lag, func(s *show) { s.state.secret.uid = "shown" }}, taskSync},
		{"Secret made anew", []change{func(s *show) { s.secret.uid = "other" }}, taskSync},
		{"Secret appeared", []change{func(s *show) { s.state.secret = version{} }}, taskSync},

		{"interval", []change{due}, taskResync},
		{"status lost", []change{statusLost}, taskYield},
		{"status lost, others went first", []change{statusLost, func(s *show) { s.state.yielded = true }}, taskRestoreStatus},
		{"status not shown yet", []change{statusLost, lag}, taskAwaitWatch},

		{"foreign", []change{isForeign, noSecret}, taskNone},
		{"waits for finalizers, interval", []change{func(s *show) { s.state.waiting = true }, due}, taskCheckForeign},
		{"waits for finalizers, gone", []change{func(s *show) { s.state.waiting = true }, noSecret}, taskSync},
		{"foreign, interval", []change{isForeign, noSecret, due}, taskCheckForeign},
		{"foreign, changed", []change{isForeign, changed}, taskSync},
	} {
		s := show{
			observation: observation{secret: version{"s", "100"}, secretSeen: "shown", now: now, state: &syncState{
				synced: true, uid: "h", generation: 7, secretName: "s", secret: version{"s", "100"},
				nextCheck: now.Add(time.Minute), status: &v1alpha1.HSMSecretStatus{},
			}},
			metadata: metadataOf(hsmSecretKind),
		}
		s.metadata.UID, s.metadata.Generation = "h", 7
		s.metadata.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: identity.FieldManager, Subresource: "status"}}
		for _, change := range c.changes {
			change(&s)
		}
		if s.metadata != nil {
			s.hsm = s.metadata
		}
		if got := decideTask(s.observation); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
