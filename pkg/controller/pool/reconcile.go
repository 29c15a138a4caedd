// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	agentclient "j5t.io/hsm/pkg/agent/client"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// reconciler gathers the facts of all pools, and carries out what was decided:
//
//	caches, agents' answers ──► facts ──► decide ──► decision ──► pools made, agents polled, statuses written
//	gather.go                             decide.go               act.go
//
// One goroutine has it.
type reconciler struct {
	client client.Client
	// objects and agents are caches: the pods of agents are in the latter.
	objects, agents client.Reader
	namespace       string
	poller          *poller
	recorder        record.EventRecorder
	clock           clock.PassiveClock

	start       time.Time // Of the first decision.
	lastReports lastReports
	deviceUIDs  map[key]types.UID // Of the HSMDevices of the last decision.
	refusals    *refusals
	endpoints   map[string]agentclient.Endpoint // By agentname.For.
	latest      map[key]*v1alpha1.HSMPool       // As they were written last.
	written     map[key]time.Time               // When a status was written last.
	notOwned    map[types.UID]bool              // Pools of which an Event says that they were not made here.
}

func newReconciler(c client.Client, objects, agents client.Reader, o Options) *reconciler {
	return &reconciler{
		client: c, objects: objects, agents: agents, namespace: o.SystemNamespace, recorder: o.Recorder, clock: o.Clock,
		lastReports: lastReports{}, deviceUIDs: map[key]types.UID{}, refusals: newRefusals(), endpoints: map[string]agentclient.Endpoint{},
		latest: map[key]*v1alpha1.HSMPool{}, written: map[key]time.Time{}, notOwned: map[types.UID]bool{},
	}
}

// Reconcile decides on all pools, and comes back when another decision may be due.
func (r *reconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	f, err := r.gather(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	d := decide(f)
	if err := r.act(ctx, f, d); err != nil || d.next.IsZero() {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: max(d.next.Sub(f.now), time.Millisecond)}, nil
}

// act does all that was decided, whatever part of it fails.
func (r *reconciler) act(ctx context.Context, f *facts, d decision) error {
	var errs []error
	for _, device := range d.missing {
		errs = append(errs, r.create(ctx, device))
	}
	for _, p := range d.notOwned {
		r.recordNotOwned(p)
	}
	r.poll(d)
	for _, pool := range f.pools {
		errs = append(errs, r.writeStatus(ctx, pool, d.statuses[keyOf(pool)]))
	}
	measure(d)
	return errors.Join(errs...)
}
