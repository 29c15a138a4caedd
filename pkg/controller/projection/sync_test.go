// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// TestPreviousStatus: a status that the agent has lost is taken from the state that is
// kept, but not from the state of an earlier HSMSecret of the same name. Its Secret is gone
// with it, and was not deleted by a person.
func TestPreviousStatus(t *testing.T) {
	t.Parallel()
	kept := &v1alpha1.HSMSecretStatus{
		SecretRef:  &v1alpha1.SecretReference{Name: "db"},
		Conditions: []metav1.Condition{{Type: v1alpha1.HSMSecretReady}},
	}
	for name, c := range map[string]struct {
		uid  types.UID // Of the kept state.
		want bool      // It is taken.
	}{
		"the same HSMSecret":   {"u1", true},
		"made again":           {"u0", false},
		"after a failed start": {"", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := clocktesting.NewFakeClock(time.Now())
			r := &reconciler{clock: clock, outage: &outage{clock: clock}, client: interceptor.NewClient(nil, interceptor.Funcs{
				Get: func(_ context.Context, _ client.WithWatch, _ client.ObjectKey, object client.Object, _ ...client.GetOption) error {
					testHSMSecret().DeepCopyInto(object.(*v1alpha1.HSMSecret))
					return nil
				},
			})}
			p := &pass{state: &syncState{uid: c.uid, synced: c.uid != "", status: kept, lostEdit: "an edit"}, lostEdit: "an edit"}
			if err := r.readHSMSecret(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			if taken := p.previous.SecretRef != nil; taken != c.want {
				t.Errorf("the kept status is taken: %t", taken)
			}
			if (p.lostEdit != "") != c.want || p.state.uid != "u1" || p.state.synced && !c.want {
				t.Errorf("the state is %+v, with the lost edit %q", p.state, p.lostEdit)
			}
		})
	}
}
