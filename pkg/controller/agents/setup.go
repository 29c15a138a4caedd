// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"context"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

const (
	// resync is a safety net: watches show the changes.
	resync = 10 * time.Minute
	// copyInterval is how old a copy of a PIN may be.
	copyInterval = time.Minute

	failureDelay    = 200 * time.Millisecond
	maxFailureDelay = 30 * time.Second
)

// everything is the one request of this controller. All pools are read together, because a
// serial number may be in two of them.
var everything = reconcile.Request{}

// Add has a manager run the agents. The cache must hold what Cached says, here and in
// package certs; its watches are waited for, and nothing is read from it.
func Add(mgr manager.Manager, c cache.Cache, o Options) error {
	r := &reconciler{
		Options: o, client: mgr.GetClient(), applied: newApplied(),
		// The object that stands for a certificate is deleted before its Secret, which may be
		// the same object.
		kinds: slices.Compact(append(o.Access.kinds(), o.Issuer.Kind(), secretKind)),
	}
	// Where no object exists yet, no watch shows one.
	begin := source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		queue.Add(everything)
		return nil
	})
	b := builder.ControllerManagedBy(mgr).
		Named("agents").
		WithOptions(controller.Options{
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](failureDelay, maxFailureDelay),
		}).
		WatchesRawSource(begin).
		WatchesRawSource(source.Kind(c, &v1alpha1.HSMPool{}, enqueue[*v1alpha1.HSMPool](), predicate.TypedFuncs[*v1alpha1.HSMPool]{
			UpdateFunc: func(e event.TypedUpdateEvent[*v1alpha1.HSMPool]) bool { return differ(e.ObjectOld, e.ObjectNew) },
		})).
		WatchesRawSource(source.Kind(c, metadataOf(hsmDeviceKind), enqueue[*metav1.PartialObjectMetadata]()))
	for _, kind := range r.kinds {
		b = b.WatchesRawSource(source.Kind(c, metadataOf(kind), enqueue[*metav1.PartialObjectMetadata](),
			predicate.NewTypedPredicateFuncs(func(o *metav1.PartialObjectMetadata) bool { return o.Labels[agentname.ObjectLabel] != "" })))
	}
	return b.Complete(r)
}

func enqueue[T client.Object]() handler.TypedEventHandler[T, reconcile.Request] {
	return handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, T) []reconcile.Request { return []reconcile.Request{everything} })
}

// differ reports whether two states of a pool can lead to different plans.
func differ(a, b *v1alpha1.HSMPool) bool {
	if a.UID != b.UID || a.Generation != b.Generation {
		return true
	}
	sameDevice := func(x, y v1alpha1.AggregatedDevice) bool {
		return x.SerialNumber == y.SerialNumber && x.NodeName == y.NodeName && x.DevicePath == y.DevicePath &&
			x.HSMDeviceName == y.HSMDeviceName && x.Available == y.Available
	}
	sameMember := func(x, y v1alpha1.PoolMember) bool {
		return x.SerialNumber == y.SerialNumber && x.State == y.State && x.StoreID == y.StoreID &&
			(x.State != stateUninitialized || x.Message == y.Message)
	}
	return !slices.EqualFunc(a.Status.AggregatedDevices, b.Status.AggregatedDevices, sameDevice) ||
		!slices.EqualFunc(a.Status.Members, b.Status.Members, sameMember)
}

// Cached says what the cache has to hold beside what package certs does.
func Cached(access DeviceAccess) map[client.Object]cache.ByObject {
	everywhere := map[string]cache.Config{cache.AllNamespaces: {}}
	objects := map[client.Object]cache.ByObject{
		&v1alpha1.HSMPool{}:       {Namespaces: everywhere, Transform: cache.TransformStripManagedFields()},
		metadataOf(hsmDeviceKind): {Namespaces: everywhere, Transform: cache.TransformStripManagedFields()},
	}
	for _, kind := range access.kinds() {
		objects[metadataOf(kind)] = cache.ByObject{
			Label:     labels.SelectorFromSet(labels.Set{partOfLabel: partOf, nameLabel: appName}),
			Transform: cache.TransformStripManagedFields(),
		}
	}
	return objects
}

func metadataOf(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(kind)
	return object
}
