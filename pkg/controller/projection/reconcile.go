// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// reconciler gathers facts and carries out decisions; it decides nothing itself:
//
//	watches ──► observation ──► decideTask ──► task                  trigger.go
//	                                            │
//	API server ──► facts ──► decide ──► action ─┴─► … ──► status     sync.go
//	              facts.go  decide.go   act.go            status.go
//	                                            │
//	                                 endingOf ──┴─► when to come back ending.go
type reconciler struct {
	client   client.Client // Asks the API server each time.
	cache    client.Reader // Of metadata only, from the watches.
	keys     *keys
	values   *values
	recorder record.EventRecorder
	clock    clock.PassiveClock
	outage   *outage
	states   *syncStates
}

// Reconcile does for one HSMSecret what the watches give cause for.
func (r *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	o, err := r.observe(ctx, request.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	t := decideTask(o)
	if t.sendsRequests() {
		if pause := r.outage.wait(); pause > 0 {
			return reconcile.Result{RequeueAfter: pause}, nil
		}
		return r.sync(ctx, request.NamespacedName, t, o)
	}
	switch t {
	case taskForget:
		r.states.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	case taskAwaitWatch:
		return idle(o.state.watchesCurrentAt.Sub(o.now)), nil
	case taskYield:
		o.state.yielded = true
		return idle(yieldTime), nil
	}
	return idle(o.state.nextCheck.Sub(o.now)), nil
}

// observe asks the caches.
func (r *reconciler) observe(ctx context.Context, name types.NamespacedName) (observation, error) {
	o := observation{now: r.clock.Now()}
	hsm := metadataOf(hsmSecretKind)
	err := r.cache.Get(ctx, name, hsm)
	if apierrors.IsNotFound(err) || err == nil && hsm.DeletionTimestamp != nil {
		return o, nil
	}
	if err != nil {
		return o, err
	}
	o.hsm = hsm
	o.state, o.secretSeen = r.states.get(name)
	o.secret, err = secretVersion(ctx, r.cache, name.Namespace, o.state.secretName)
	return o, err
}

// secretVersion asks the watch, or the API server, for the state of a Secret, and for no
// data.
func secretVersion(ctx context.Context, reader client.Reader, namespace, name string) (version, error) {
	if name == "" {
		return version{}, nil
	}
	secret := metadataOf(secretKind)
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, secret)
	if apierrors.IsNotFound(err) {
		return version{}, nil
	}
	return versionOf(secret), err
}

// idle comes back later, after those to which something has happened.
func idle(after time.Duration) reconcile.Result {
	return reconcile.Result{RequeueAfter: after, Priority: new(handler.LowPriority)}
}

// noteOutage tells the outage what became of a request that needs the token, and returns
// its error.
func (r *reconciler) noteOutage(ctx context.Context, err error) error {
	if r.outage.note(err) {
		klog.FromContext(ctx).Info("Token or API server went away or came back", "away", isAway(err), "err", err)
	}
	return err
}
