// SPDX-License-Identifier: Apache-2.0

// Package pool makes an HSMPool for each HSMDevice, and owns the whole status of all
// HSMPools: what discovery pods report and agents answer, in one decision. It never
// changes the spec of a pool, deploys no agent, and believes no other pods.
package pool

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/mtls"
)

const (
	// settleTime is how long changes are gathered before a decision: many pods that
	// report at once make one.
	settleTime = 200 * time.Millisecond
	// After a failed write a new decision is made after failureDelay, and then ever later.
	failureDelay    = 200 * time.Millisecond
	maxFailureDelay = 5 * time.Second
)

// everything is the only request: all pools are decided on at once.
var everything = reconcile.Request{NamespacedName: key{Name: "pools"}}

// Options are what Add needs beside the manager.
type Options struct {
	// SystemNamespace is where the pods of discovery and of agents are.
	SystemNamespace string
	// Agents prove the controller to agents. They are read when an agent is polled, and
	// need not exist before.
	Agents mtls.Files
	// Recorder takes events of HSMPools, and of pods whose reports do not count.
	Recorder record.EventRecorder
	// Clock is the time.
	Clock clock.PassiveClock
}

// Add adds the controller to a manager, whose client must ask the API server. objects
// is a cache of what Cached says, agents of what CachedAgents says.
func Add(mgr manager.Manager, objects, agents cache.Cache, o Options) error {
	answers := make(chan event.GenericEvent, 1)
	r := newReconciler(mgr.GetClient(), objects, agents, o)
	r.poller = newPoller(o.Agents, pollInterval, func() {
		select {
		case answers <- event.GenericEvent{Object: &metav1.PartialObjectMetadata{}}:
		default: // One is waiting.
		}
	})
	if err := mgr.Add(r.poller); err != nil {
		return err
	}
	c, err := controller.New("pool", mgr, controller.Options{
		MaxConcurrentReconciles: 1,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](failureDelay, maxFailureDelay),
		Reconciler:              r,
	})
	if err != nil {
		return err
	}
	sources := []source.Source{
		source.Kind[client.Object](objects, &v1alpha1.HSMDevice{}, soon),
		source.Kind[client.Object](objects, &v1alpha1.HSMPool{}, soon),
		source.Kind[client.Object](objects, &appsv1.DaemonSet{}, soon),
		source.Kind[client.Object](objects, &corev1.Pod{}, soon),
		source.Kind[client.Object](agents, &corev1.Pod{}, soon),
		source.Channel(answers, soon),
	}
	for _, s := range sources {
		if err := c.Watch(s); err != nil {
			return err
		}
	}
	return nil
}

// soon asks for a decision after settleTime: one for all changes until then.
var soon = handler.Funcs{
	CreateFunc:  func(_ context.Context, _ event.CreateEvent, q queue) { q.AddAfter(everything, settleTime) },
	UpdateFunc:  func(_ context.Context, _ event.UpdateEvent, q queue) { q.AddAfter(everything, settleTime) },
	DeleteFunc:  func(_ context.Context, _ event.DeleteEvent, q queue) { q.AddAfter(everything, settleTime) },
	GenericFunc: func(_ context.Context, _ event.GenericEvent, q queue) { q.AddAfter(everything, settleTime) },
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Cached is what a cache has to hold. From all namespaces it takes only kinds with few
// objects.
func Cached(systemNamespace string) map[client.Object]cache.ByObject {
	everywhere := map[string]cache.Config{cache.AllNamespaces: {}}
	return map[client.Object]cache.ByObject{
		&v1alpha1.HSMDevice{}: {Namespaces: everywhere, Transform: cache.TransformStripManagedFields()},
		&v1alpha1.HSMPool{}:   {Namespaces: everywhere, Transform: cache.TransformStripManagedFields()},
		&appsv1.DaemonSet{}: {
			Namespaces: map[string]cache.Config{systemNamespace: {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, discoveryName)}},
			Transform:  trimDaemonSet,
		},
		&corev1.Pod{}: {
			Namespaces: map[string]cache.Config{systemNamespace: {LabelSelector: labels.SelectorFromSet(labels.Set{discoveryLabel: discoveryName})}},
			Transform:  trimPod,
		},
	}
}

// CachedAgents is what a second cache has to hold. No selector selects the pods of
// discovery and of agents at once.
func CachedAgents(systemNamespace string) map[client.Object]cache.ByObject {
	labelled, err := labels.NewRequirement(agentname.ObjectLabel, selection.Exists, nil)
	utilruntime.Must(err)
	return map[client.Object]cache.ByObject{
		&corev1.Pod{}: {
			Namespaces: map[string]cache.Config{systemNamespace: {LabelSelector: labels.NewSelector().Add(*labelled)}},
			Transform:  trimPod,
		},
	}
}

// trimDaemonSet keeps its identity and its figures.
func trimDaemonSet(object any) (any, error) {
	d, ok := object.(*appsv1.DaemonSet)
	if !ok {
		return object, nil
	}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: d.Name, UID: d.UID, ResourceVersion: d.ResourceVersion},
		Status:     appsv1.DaemonSetStatus{DesiredNumberScheduled: d.Status.DesiredNumberScheduled},
	}, nil
}

// trimPod keeps what is read. Of a report that cannot count it keeps only that there is
// one, and of a report that is too large one byte more than is allowed.
func trimPod(object any) (any, error) {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	kept := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			CreationTimestamp: p.CreationTimestamp, DeletionTimestamp: p.DeletionTimestamp,
			Labels: map[string]string{}, OwnerReferences: p.OwnerReferences,
		},
		Spec:   corev1.PodSpec{NodeName: p.Spec.NodeName, ServiceAccountName: p.Spec.ServiceAccountName},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP},
	}
	if name, found := p.Labels[agentname.ObjectLabel]; found {
		kept.Labels[agentname.ObjectLabel] = name
	}
	if value, found := p.Annotations[report.Annotation]; found {
		if owner := metav1.GetControllerOf(p); owner == nil || owner.Kind != "DaemonSet" {
			value = ""
		}
		if len(value) > report.MaxSize {
			value = string([]byte(value[:report.MaxSize+1]))
		}
		kept.Annotations = map[string]string{report.Annotation: value}
	}
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady {
			kept.Status.Conditions = append(kept.Status.Conditions, condition)
		}
	}
	for _, container := range p.Status.ContainerStatuses {
		if w := container.State.Waiting; w != nil {
			kept.Status.ContainerStatuses = append(kept.Status.ContainerStatuses, corev1.ContainerStatus{
				Name: container.Name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: w.Reason}},
			})
		}
	}
	return kept, nil
}
