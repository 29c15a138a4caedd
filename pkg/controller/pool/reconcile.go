// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	agentclient "j5t.io/hsm/pkg/agent/client"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
	"j5t.io/hsm/pkg/membership"
)

// reconciler gathers the facts, and writes what was decided. One goroutine has it.
type reconciler struct {
	client client.Client
	// objects and agents are caches: the pods of agents are in the latter.
	objects, agents client.Reader
	namespace       string
	poller          *poller
	recorder        record.EventRecorder
	clock           clock.PassiveClock

	start      time.Time // Of the first decision.
	memory     memory
	known      map[key]types.UID // HSMDevices.
	complaints *complaints
	endpoints  map[string]agentclient.Endpoint // By agentname.For.
	latest     map[key]*v1alpha1.HSMPool
	written    map[key]time.Time
	strangers  map[types.UID]bool // Pools of which was told that they are not ours.
}

func newReconciler(c client.Client, objects, agents client.Reader, o Options) *reconciler {
	return &reconciler{
		client: c, objects: objects, agents: agents, namespace: o.SystemNamespace, recorder: o.Recorder, clock: o.Clock,
		memory: memory{}, known: map[key]types.UID{}, complaints: newComplaints(), endpoints: map[string]agentclient.Endpoint{},
		latest: map[key]*v1alpha1.HSMPool{}, written: map[key]time.Time{}, strangers: map[types.UID]bool{},
	}
}

// Reconcile decides on all pools, and comes back when the decision would be another.
func (r *reconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	f, err := r.gather(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	errs := []error{r.create(ctx, f)}
	d := decide(f)
	r.poll(d)
	for _, pool := range f.pools {
		errs = append(errs, r.write(ctx, pool, d.statuses[keyOf(pool)]))
	}
	measure(d)
	if err := errors.Join(errs...); err != nil || d.next.IsZero() {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: max(d.next.Sub(f.now), time.Millisecond)}, nil
}

// gather reads the caches.
func (r *reconciler) gather(ctx context.Context) (*facts, error) {
	f := &facts{now: r.clock.Now(), wanted: -1, written: r.written}
	if r.start.IsZero() {
		r.start = f.now
	}
	var devices v1alpha1.HSMDeviceList
	var pools v1alpha1.HSMPoolList
	var daemonSets appsv1.DaemonSetList
	var pods, agentPods corev1.PodList
	if err := errors.Join(
		r.objects.List(ctx, &devices), r.objects.List(ctx, &pools),
		r.objects.List(ctx, &daemonSets, client.InNamespace(r.namespace)),
		r.objects.List(ctx, &pods, client.InNamespace(r.namespace)),
		r.agents.List(ctx, &agentPods, client.InNamespace(r.namespace)),
	); err != nil {
		return nil, fmt.Errorf("read the caches: %w", err)
	}
	for i := range devices.Items {
		if devices.Items[i].DeletionTimestamp == nil {
			f.devices = append(f.devices, &devices.Items[i])
		}
	}
	r.keepLatest(f, pools.Items)
	var daemonSet *appsv1.DaemonSet
	if len(daemonSets.Items) > 0 {
		daemonSet = &daemonSets.Items[0]
		f.wanted = daemonSet.Status.DesiredNumberScheduled
	}
	r.complaints.keep(pods.Items)
	f.nodes = hear(pods.Items, daemonSet, f.now, r.refuse)
	r.recall(f)
	f.agents = agentsByName(agentPods.Items)
	answers := r.poller.lastAnswers()
	for name, a := range f.agents {
		if endpoint, polled := r.endpoints[name]; polled && endpoint.Address == a.endpoint() {
			a.answer = answers[endpoint]
			f.agents[name] = a
		}
	}
	return f, nil
}

// keepLatest takes for each pool what was written last, if the cache does not show it
// yet.
func (r *reconciler) keepLatest(f *facts, pools []v1alpha1.HSMPool) {
	there := map[key]bool{}
	for i := range pools {
		pool := &pools[i]
		name := keyOf(pool)
		there[name] = true
		if latest := r.latest[name]; latest != nil && latest.UID == pool.UID {
			order, err := resourceversion.CompareResourceVersion(pool.ResourceVersion, latest.ResourceVersion)
			if err == nil && order < 0 {
				pool = latest.DeepCopy()
			}
		}
		if pool.DeletionTimestamp == nil {
			f.pools = append(f.pools, pool)
		}
	}
	for name := range r.latest {
		if !there[name] {
			delete(r.latest, name)
			delete(r.written, name)
		}
	}
}

// recall adds what was heard of nodes whose pods are gone.
func (r *reconciler) recall(f *facts) {
	now := map[key]types.UID{}
	for _, device := range f.devices {
		now[keyOf(device)] = device.UID
	}
	for device, uid := range r.known {
		if now[device] != uid {
			r.memory.drop(device)
		}
	}
	r.known = now
	var known []string
	grace := membership.DefaultGracePeriod
	for _, pool := range f.pools {
		grace = max(grace, membership.GracePeriod(pool))
		for i := range pool.Status.AggregatedDevices {
			known = append(known, pool.Status.AggregatedDevices[i].NodeName)
		}
		for i := range pool.Status.ReportingPods {
			known = append(known, pool.Status.ReportingPods[i].NodeName)
		}
	}
	if oldest := f.now.Add(-grace); r.start.Before(oldest) {
		r.memory.forget(oldest)
	}
	r.memory.recall(f.nodes, known, r.start)
}

// create makes the pools that are missing. The pool of an HSMDevice that another one
// lists is not missed.
func (r *reconciler) create(ctx context.Context, f *facts) error {
	described := claims(f)
	claimed := map[key]bool{}
	for _, devices := range described {
		for _, device := range devices {
			claimed[keyOf(device)] = true
		}
	}
	there := map[key]*v1alpha1.HSMPool{}
	for _, pool := range f.pools {
		there[keyOf(pool)] = pool
	}
	var errs []error
	for _, device := range f.devices {
		if pool := there[keyOf(device)]; pool != nil {
			r.checkOwner(pool, device)
			continue
		}
		if claimed[keyOf(device)] {
			continue
		}
		pool, err := r.newPool(device)
		if err == nil {
			err = r.client.Create(ctx, pool, client.FieldOwner(identity.FieldManager))
		}
		switch {
		case apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
			// The cache lags, or the namespace is gone.
		case err != nil:
			errs = append(errs, fmt.Errorf("make HSMPool %s: %w", keyOf(device), err))
		default:
			r.latest[keyOf(pool)] = pool
			f.pools = append(f.pools, pool.DeepCopy())
		}
	}
	return errors.Join(errs...)
}

func (r *reconciler) newPool(device *v1alpha1.HSMDevice) (*v1alpha1.HSMPool, error) {
	pool := &v1alpha1.HSMPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: device.Namespace, Name: device.Name},
		Spec:       v1alpha1.HSMPoolSpec{HSMDeviceRefs: []string{device.Name}},
	}
	if m := device.Spec.Mirroring; m != nil && m.Policy != "" && m.Policy != v1alpha1.MirroringPolicyNone {
		pool.Spec.Mirroring = &v1alpha1.PoolMirroring{Enabled: true}
	}
	// Nobody waits with the deletion of the HSMDevice: that would need more rights.
	err := controllerutil.SetControllerReference(device, pool, r.client.Scheme(), controllerutil.WithBlockOwnerDeletion(false))
	return pool, err
}

// checkOwner tells once of a pool that was not made for its HSMDevice. Its status is
// written as of every pool; it is not taken over.
func (r *reconciler) checkOwner(pool *v1alpha1.HSMPool, device *v1alpha1.HSMDevice) {
	owner := metav1.GetControllerOf(pool)
	if owner != nil && owner.Kind == "HSMDevice" && owner.Name == device.Name || r.strangers[pool.UID] {
		return // One of an earlier HSMDevice is deleted by the garbage collector.
	}
	r.strangers[pool.UID] = true
	r.recorder.Eventf(pool, corev1.EventTypeWarning, eventNotOwned,
		"the pool was not made for HSMDevice %s: it is not taken over, and stays when the HSMDevice is deleted", device.Name)
}

// poll has the agents of all members polled.
func (r *reconciler) poll(d decision) {
	r.endpoints = map[string]agentclient.Endpoint{}
	wanted := map[agentclient.Endpoint]bool{}
	for _, status := range d.statuses {
		for i := range status.Members {
			member := &status.Members[i]
			if member.AgentEndpoint == "" {
				continue
			}
			endpoint := agentclient.Endpoint{Address: member.AgentEndpoint, ServerName: agentname.ServerName(member.SerialNumber, r.namespace)}
			r.endpoints[agentname.For(member.SerialNumber)] = endpoint
			wanted[endpoint] = true
		}
	}
	r.poller.setAgents(wanted)
}

// write writes a status that is not what it was.
func (r *reconciler) write(ctx context.Context, pool *v1alpha1.HSMPool, status v1alpha1.HSMPoolStatus) error {
	if equality.Semantic.DeepEqual(pool.Status, status) {
		return nil
	}
	before := pool.Status
	changed := pool.DeepCopy()
	changed.Status = status
	err := r.client.Status().Update(ctx, changed, client.FieldOwner(identity.FieldManager))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // The watch will tell what has become of it.
	}
	if err != nil {
		return fmt.Errorf("write the status of HSMPool %s: %w", keyOf(pool), err)
	}
	statusWrites.Inc()
	r.latest[keyOf(pool)], r.written[keyOf(pool)] = changed, r.clock.Now()
	for _, h := range happenings(&before, &status) {
		r.recorder.Event(changed, h.kind, h.reason, h.message)
	}
	return nil
}
