// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// checkInterval is the time between two checks for what is due.
const checkInterval = time.Hour

// everything is the one request of this controller.
var everything = reconcile.Request{}

// Add has a manager keep the certificates. The cache must hold what Cached says,
// and is not read.
func Add(mgr manager.Manager, c cache.Cache, i Issuer) error {
	enqueue := handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, *metav1.PartialObjectMetadata) []reconcile.Request {
		return []reconcile.Request{everything}
	})
	// Where no object exists yet, no watch shows one.
	begin := source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		queue.Add(everything)
		return nil
	})
	b := builder.ControllerManagedBy(mgr).Named("certs").WatchesRawSource(begin)
	if i.Kind() == secretKind {
		b = b.WatchesRawSource(source.Kind(c, metadataOf(secretKind), enqueue)).
			WatchesRawSource(source.Kind(c, metadataOf(apiServiceKind), enqueue))
	} else {
		b = b.WatchesRawSource(source.Kind(c, metadataOf(i.Kind()), enqueue, ofSpec))
	}
	return b.Complete(reconcile.Func(func(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
		return reconcile.Result{RequeueAfter: checkInterval}, i.Renew(ctx)
	}))
}

// ofSpec leaves out changes of a status, of which there are many.
var ofSpec = predicate.TypedFuncs[*metav1.PartialObjectMetadata]{
	UpdateFunc: func(e event.TypedUpdateEvent[*metav1.PartialObjectMetadata]) bool {
		return e.ObjectOld.Generation != e.ObjectNew.Generation
	},
}

// Cached says what the cache has to hold, in the system namespace: metadata only.
func Cached(i Issuer) map[client.Object]cache.ByObject {
	ours := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{partOfLabel: partOf}), Transform: cache.TransformStripManagedFields()}
	cached := map[client.Object]cache.ByObject{metadataOf(secretKind): ours}
	if i.Kind() == secretKind {
		cached[metadataOf(apiServiceKind)] = cache.ByObject{
			Field: fields.OneTermEqualSelector(metav1.ObjectNameField, APIService), Transform: cache.TransformStripManagedFields(),
		}
	} else {
		cached[metadataOf(i.Kind())] = ours
	}
	return cached
}

func metadataOf(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(kind)
	return object
}
