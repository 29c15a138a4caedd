// SPDX-License-Identifier: Apache-2.0

// Package projection keeps a Secret in sync with each HSMSecret, in both
// directions. It owns the Secrets that it made, and the controller's fields in
// the status of HSMSecrets. It never touches a Secret of others, never treats what
// cannot be read as deleted, and keeps no value.
package projection

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// sourceIndex finds Secrets by the uid of their HSMSecret.
	sourceIndex = "source-uid"

	// A sync that fails, though the token can be reached, is tried again after
	// failureDelay, and then ever later.
	failureDelay    = 200 * time.Millisecond
	maxFailureDelay = time.Minute
)

// Options are what Add needs beside the manager.
type Options struct {
	// SystemNamespace holds the key of checksums.
	SystemNamespace string
	// Concurrency is how many HSMSecrets are synced at once.
	Concurrency int
	// Recorder takes events of HSMSecrets and Secrets.
	Recorder record.EventRecorder
	// Clock is the time.
	Clock clock.PassiveClock
}

// Add adds the controller to a manager. The manager's client must ask the API
// server, and its cache hold the metadata of Secrets with ManagedByLabel.
func Add(ctx context.Context, mgr manager.Manager, o Options) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, metadataOf(secretKind), sourceIndex, func(secret client.Object) []string {
		return []string{secret.GetAnnotations()[SourceUIDAnnotation]}
	})
	if err != nil {
		return err
	}
	key := types.NamespacedName{Namespace: o.SystemNamespace, Name: KeyName}
	values := &values{client: mgr.GetClient(), clock: o.Clock, denied: o.Clock.Now()}
	r := &reconciler{
		client:   mgr.GetClient(),
		cache:    mgr.GetCache(),
		keys:     &keys{client: mgr.GetClient(), values: values, name: key},
		values:   values,
		recorder: o.Recorder,
		clock:    o.Clock,
		outage:   &outage{clock: o.Clock},
		states:   newSyncStates(),
	}
	return builder.ControllerManagedBy(mgr).
		Named("projection").
		For(metadataOf(hsmSecretKind), builder.WithPredicates(predicate.NewPredicateFuncs(func(h client.Object) bool {
			return client.ObjectKeyFromObject(h) != key
		}))).
		Watches(metadataOf(secretKind), handler.EnqueueRequestsFromMapFunc(r.sourceOf)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: o.Concurrency,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](failureDelay, maxFailureDelay),
		}).
		Complete(r)
}

// sourceOf names the HSMSecret of a projected Secret that has changed.
func (r *reconciler) sourceOf(_ context.Context, secret client.Object) []reconcile.Request {
	name := secret.GetAnnotations()[SourceNameAnnotation]
	if name == "" {
		return nil
	}
	source := types.NamespacedName{Namespace: secret.GetNamespace(), Name: name}
	r.states.secretShown(source, secret.GetUID())
	return []reconcile.Request{{NamespacedName: source}}
}

// Cached says which Secrets the cache has to hold, and how little of them.
func Cached() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		metadataOf(secretKind): {
			Label:     labels.SelectorFromSet(labels.Set{ManagedByLabel: ManagedByValue}),
			Transform: cache.TransformStripManagedFields(),
		},
		metadataOf(hsmSecretKind): {Transform: keepStatusManager},
	}
}

// keepStatusManager drops the managedFields of an HSMSecret but the name of who
// wrote the status.
func keepStatusManager(object any) (any, error) {
	h, err := meta.Accessor(object)
	if err != nil {
		return object, nil //nolint:nilerr // A tombstone has no managedFields.
	}
	var kept []metav1.ManagedFieldsEntry
	for _, entry := range h.GetManagedFields() {
		if entry.Subresource == "status" {
			kept = append(kept, metav1.ManagedFieldsEntry{Manager: entry.Manager, Subresource: entry.Subresource})
		}
	}
	h.SetManagedFields(kept)
	return object, nil
}
