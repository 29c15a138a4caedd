// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	runtimecache "sigs.k8s.io/controller-runtime/pkg/cache"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/pkg/generated/informers/externalversions"
)

// seen is one event as an observer was told of it.
type seen struct {
	kind            watch.EventType
	resourceVersion string
}

// observer keeps what it was told of each object, in order.
type observer struct {
	name string
	// exact: told of every version, not only of the latest one.
	exact bool

	mu     sync.Mutex
	events map[string][]seen
}

func newObserver(name string, exact bool) *observer {
	return &observer{name: name, exact: exact, events: map[string][]seen{}}
}

func (o *observer) add(kind watch.EventType, obj metav1.Object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events[obj.GetName()] = append(o.events[obj.GetName()], seen{kind, obj.GetResourceVersion()})
}

func (o *observer) of(name string) []seen {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.events[name])
}

// repeated is how often it was told of a version that it knew. A deletion that was
// found out by a list has the version before it.
func (o *observer) repeated() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, events := range o.events {
		for i := 1; i < len(events); i++ {
			if events[i].kind != watch.Deleted && events[i].resourceVersion == events[i-1].resourceVersion {
				n++
			}
		}
	}
	return n
}

// handler makes it an informer's.
func (o *observer) handler() cache.ResourceEventHandler {
	object := func(obj any) metav1.Object {
		if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = unknown.Obj
		}
		return obj.(metav1.Object)
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { o.add(watch.Added, object(obj)) },
		UpdateFunc: func(_, obj any) { o.add(watch.Modified, object(obj)) },
		DeleteFunc: func(obj any) { o.add(watch.Deleted, object(obj)) },
	}
}

// follow watches, and goes on from where it was when the stream ends, until the
// context does.
func (o *observer) follow(ctx context.Context, t *testing.T, namespace, position string) {
	for ctx.Err() == nil {
		w, err := secrets.HSMSecrets(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: position, AllowWatchBookmarks: true})
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			t.Errorf("%s: the watch cannot go on from %s: %v", o.name, position, err)
			return
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		for event := range w.ResultChan() {
			obj, ok := event.Object.(metav1.Object)
			if !ok {
				if status := apierrors.FromObject(event.Object); apierrors.IsResourceExpired(status) || apierrors.IsGone(status) {
					t.Errorf("%s: the watch cannot go on from %s: %v", o.name, position, status)
					return
				}
				break
			}
			position = obj.GetResourceVersion()
			if event.Type != watch.Bookmark {
				o.add(event.Type, obj)
			}
		}
		w.Stop()
	}
}

// observe lets all kinds of clients watch a namespace until the context ends.
func observe(ctx context.Context, t *testing.T, namespace string) ([]*observer, *sync.WaitGroup) {
	t.Helper()
	var running sync.WaitGroup
	start, err := secrets.HSMSecrets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	raw := newObserver("watch", true)
	running.Go(func() { raw.follow(ctx, t, namespace, start.ResourceVersion) })

	client, err := versioned.NewForConfig(hsm.Admin)
	if err != nil {
		t.Fatal(err)
	}
	informer := newObserver("client-go informer", false)
	factory := externalversions.NewSharedInformerFactoryWithOptions(client, 0, externalversions.WithNamespace(namespace))
	shared := factory.Hsm().V1alpha1().HSMSecrets().Informer()
	if _, err := shared.AddEventHandler(informer.handler()); err != nil {
		t.Fatal(err)
	}
	running.Go(func() { shared.RunWithContext(ctx) })

	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	controllers, err := runtimecache.New(hsm.Admin, runtimecache.Options{
		Scheme: scheme, DefaultNamespaces: map[string]runtimecache.Config{namespace: {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() { _ = controllers.Start(ctx) })
	controller := newObserver("controller-runtime cache", false)
	cached, err := controllers.GetInformer(ctx, &v1alpha1.HSMSecret{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cached.AddEventHandler(controller.handler()); err != nil {
		t.Fatal(err)
	}
	if !cache.WaitForCacheSync(ctx.Done(), shared.HasSynced, cached.HasSynced) {
		t.Fatal("the informers have not synced")
	}
	kubectl := newObserver("kubectl get --watch", false)
	running.Go(func() { kubectl.kubectlWatch(ctx, t, namespace) })
	return []*observer{raw, informer, controller, kubectl}, &running
}

// history is what a client was told that it did to one object: the versions that
// it made, in order, and whether it has deleted it.
type history struct {
	versions []string
	deleted  bool
	// unsure: some request failed, so there may have been more.
	unsure bool
}

// faults gives what an observer was told wrongly of an object. An informer that
// has to list again is told only of the last version.
func (o *observer) faults(name string, h history) []string {
	var faults []string
	events := o.of(name)
	last := uint64(0)
	for i, e := range events {
		revision, err := strconv.ParseUint(e.resourceVersion, 10, 64)
		// "OnUpdate is also called when a re-list happens, and it will get called even
		// if nothing changed" (client-go, ResourceEventHandler). A deletion that was
		// found out so has the version before it.
		if again := !o.exact && revision == last && i > 0; err != nil || revision <= last && !again {
			faults = append(faults, fmt.Sprintf("%s of %s after %d: told twice or out of order", e.kind, e.resourceVersion, last))
		}
		last = max(last, revision)
		if (i == 0) != (e.kind == watch.Added) {
			faults = append(faults, fmt.Sprintf("event %d is %s", i, e.kind))
		}
	}
	if h.unsure {
		return faults
	}
	want := h.versions
	if !o.exact {
		want = want[len(want)-1:]
		if h.deleted { // Its whole life may lie between two lists.
			want = nil
			if len(events) == 0 {
				return faults
			}
		}
	}
	for _, version := range want {
		if !slices.ContainsFunc(events, func(e seen) bool { return e.resourceVersion == version && e.kind != watch.Deleted }) {
			faults = append(faults, "not told of version "+version)
		}
	}
	if ended := len(events) > 0 && events[len(events)-1].kind == watch.Deleted; ended != h.deleted {
		faults = append(faults, fmt.Sprintf("told of the deletion: %t, want %t", ended, h.deleted))
	}
	if extra := len(events) - len(h.versions); o.exact && (h.deleted && extra != 1 || !h.deleted && extra != 0) {
		faults = append(faults, fmt.Sprintf("told of %d events, want %d versions", len(events), len(h.versions)))
	}
	return faults
}
