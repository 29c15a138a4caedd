// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
)

// TestEnding ends passes before the HSMSecret was read, and looks at what is kept, told and
// tried again.
func TestEnding(t *testing.T) {
	t.Parallel()
	secrets := schema.GroupResource{Resource: "secrets"}
	terminating := apierrors.NewForbidden(secrets, "db", errors.New("the namespace is being terminated"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	for name, c := range map[string]struct {
		err      error
		want     ending
		atLeast  time.Duration // Until it is synced again; 0 is never, or as the queue says.
		reported bool
		returned bool // To the queue, which waits ever longer.
	}{
		"success":               {nil, endComplete, time.Minute, false, false},
		"nothing new":           {errUnchanged, endComplete, time.Minute, false, false},
		"HSMSecret gone":        {errGone, endGone, 0, false, false},
		"namespace terminating": {fmt.Errorf("apply: %w", terminating), endGone, 0, false, false},
		"written by others":     {fmt.Errorf("update: %w", apierrors.NewConflict(secrets, "db", nil)), endRaced, retryRacedAfter, false, false},
		"edited too often":      {errEditedTooOften, endContested, editInterval, true, false},
		"token away":            {fmt.Errorf("read: %w", apierrors.NewServiceUnavailable("no token")), endUnavailable, probeInterval, true, false},
		"refused":               {apierrors.NewForbidden(secrets, "db", nil), endFailed, 0, true, true},
		"not converging":        {errNotConverging, endFailed, 0, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := endingOf(c.err); got != c.want {
				t.Errorf("it ends %s, want %s", got, c.want)
			}
			clock, events := clocktesting.NewFakeClock(time.Now()), record.NewFakeRecorder(10)
			r := &reconciler{clock: clock, recorder: events, states: newSyncStates()}
			key := types.NamespacedName{Namespace: "app", Name: "db"}
			state, _ := r.states.get(key)
			state.synced, state.nextCheck = true, clock.Now().Add(time.Minute)
			for range 2 {
				result, err := r.end(t.Context(), &pass{name: key, state: state, lostEdit: "an edit"}, c.err)
				if (err != nil) != c.returned {
					t.Errorf("the queue is told %v", err)
				}
				if result.RequeueAfter < c.atLeast || (result.RequeueAfter > 0) != (c.atLeast > 0) {
					t.Errorf("it comes back after %s, want %s or more", result.RequeueAfter, c.atLeast)
				}
			}
			again, _ := r.states.get(key)
			if forgotten := again != state; forgotten != (c.want == endGone) {
				t.Errorf("its state is forgotten: %t", forgotten)
			}
			failed := c.want != endComplete && c.want != endGone
			if state.stale != failed || (state.lostEdit != "") != failed {
				t.Errorf("it is to be synced again: %t, with the lost edit %q", state.stale, state.lostEdit)
			}
			if got := len(events.Events); got != 0 && !c.reported || got != 1 && c.reported {
				t.Errorf("%d Events of two failures", got)
			}
			if c.reported && !strings.Contains(<-events.Events, eventSyncFailed) {
				t.Error("the Event is not SyncFailed")
			}
		})
	}
}

// TestRacesBackOff: a pair that others write during each pass is synced ever later, and
// somebody is told.
func TestRacesBackOff(t *testing.T) {
	t.Parallel()
	clock, events := clocktesting.NewFakeClock(time.Now()), record.NewFakeRecorder(100)
	r := &reconciler{clock: clock, recorder: events, states: newSyncStates()}
	key := types.NamespacedName{Namespace: "app", Name: "db"}
	state, _ := r.states.get(key)
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, "db", nil)
	var last, total time.Duration
	for range 20 {
		result, err := r.end(t.Context(), &pass{name: key, state: state}, conflict)
		if err != nil || result.RequeueAfter < last {
			t.Fatalf("it comes back after %s, then after %s, %v", last, result.RequeueAfter, err)
		}
		last = result.RequeueAfter
		total += last
	}
	if total < time.Minute || last > maxRacedDelay {
		t.Errorf("20 passes take %s, the last of them %s", total, last)
	}
	if len(events.Events) != 1 {
		t.Errorf("%d Events, want one", len(events.Events))
	}
}
