// SPDX-License-Identifier: Apache-2.0

// Package namespaces knows which namespaces may hold records, so that the others
// can be listed as empty, and deleted, while the store is away. It owns a ConfigMap
// of their names. It never says that a record is absent, and never keeps the name
// of one.
//
// These rules make "empty" true for all replicas, and after restarts:
//
//   - A namespace is added before a record is created in it, and before a record
//     of it is shown to a client: by a get, a list, a watch or a commit.
//   - A namespace is removed only when it was deleted from the cluster, and the
//     store has answered that it holds nothing of it.
//   - The ConfigMap is installed empty, with the server. A seal says that this server
//     wrote what is in it (seal.go). If somebody has deleted or changed it, or put an
//     older one back, nothing is known until it is made again from all that the store
//     holds. Each server also completes it from the store once, after its start.
//   - So a namespace that is not in the ConfigMap holds no record that a client
//     knows of. A list of such a namespace is empty while the store is away. All
//     other requests get the store's error.
package namespaces

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

// Host is the cluster that has the namespaces, and the ConfigMap.
type Host struct {
	Client coreclient.CoreV1Interface
	// SystemNamespace is the namespace of the ConfigMap.
	SystemNamespace string
	// Namespaces may lag behind.
	Namespaces corelisters.NamespaceLister
}

// Backend is a backend whose lists of empty namespaces succeed while its store is
// away. It is safe for concurrent use.
type Backend struct {
	store    records.Backend
	prefix   string
	occupied occupied

	// revision is the highest one that the store has answered with.
	revision atomic.Uint64

	mu sync.Mutex
	// added are the namespaces that are known to be in the ConfigMap, with their UIDs.
	// A namespace that was deleted may have been removed since. One that was made
	// again has another UID.
	added map[string]types.UID
	// complete: the ConfigMap has all that the store holds. completing: that is under way.
	complete, completing bool
}

var _ records.Backend = (*Backend)(nil)

// New wraps the backend of one namespaced resource. The keys of its records are
// prefix, namespace, "/" and name.
func New(store records.Backend, prefix, resource string, host Host) *Backend {
	b := &Backend{
		store: store, prefix: prefix, added: map[string]types.UID{},
		occupied: occupied{host: host, name: resource + "-namespaces", store: store, prefix: prefix, writing: make(chan struct{}, 1)},
	}
	// The first list of an empty namespace may come before any answer of the store.
	b.revision.Store(1)
	return b
}

// Get implements records.Backend.
func (b *Backend) Get(ctx context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	response, err := b.store.Get(ctx, in)
	if err != nil {
		return nil, err
	}
	b.reached(response.GetRevision())
	return response, b.show(ctx, response.GetRecord())
}

// List implements records.Backend. While the store is away, the list of a namespace
// that holds nothing is empty, as of the last revision that this replica has seen.
// Before it has seen one, that is the oldest revision: a watch from there expires,
// and its client lists again.
func (b *Backend) List(ctx context.Context, in *agentv1.ListRequest) ([]*agentv1.Record, *agentv1.ListEnd, error) {
	list, end, err := b.store.List(ctx, in)
	if err == nil {
		b.reached(end.GetRevision())
		return list, end, b.show(ctx, list...)
	}
	namespace, ok := b.listedNamespace(in)
	if !ok || !apierrors.IsServiceUnavailable(err) {
		return nil, nil, err
	}
	mayHold, readErr := b.mayHold(ctx, namespace)
	if readErr != nil {
		klog.FromContext(ctx).Error(readErr, "Cannot find out whether a namespace holds anything", "namespace", namespace)
	}
	if readErr != nil || mayHold {
		return nil, nil, err
	}
	klog.FromContext(ctx).V(2).Info("The store is away, and holds nothing of this namespace", "namespace", namespace, "err", err)
	return nil, &agentv1.ListEnd{Revision: b.revision.Load()}, nil
}

// mayHold reports whether a namespace may hold records. It is an error if that is not
// known.
func (b *Backend) mayHold(ctx context.Context, namespace string) (bool, error) {
	occupied, err := b.occupied.read(ctx)
	if err == nil {
		err = b.contradicts(occupied)
	}
	if errors.Is(err, errNotTrusted) {
		b.forget()
	}
	_, contains := occupied[namespace]
	return contains, err
}

// contradicts returns an error if namespaces that this server has added are missing.
func (b *Backend) contradicts(occupied map[string]string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for namespace, uid := range b.added {
		if _, found := occupied[namespace]; !found && uid != "" && uid == b.occupied.host.uid(namespace) {
			return fmt.Errorf("%w: it lacks namespace %s", errNotTrusted, namespace)
		}
	}
	return nil
}

// forget has all namespaces added again.
func (b *Backend) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.added, b.complete = map[string]types.UID{}, false
}

// Commit implements records.Backend.
func (b *Backend) Commit(ctx context.Context, in *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
	changed := &agentv1.Record{Key: in.GetKey()}
	if len(b.unknown(changed)) > 0 {
		// A change that fails because the store is away adds no namespace.
		if _, _, err := b.store.Revisions(ctx); err != nil {
			return nil, err
		}
	}
	if err := b.show(ctx, changed); err != nil {
		return nil, err
	}
	response, err := b.store.Commit(ctx, in)
	b.reached(response.GetRevision())
	return response, err
}

// Watch implements records.Backend.
func (b *Backend) Watch(ctx context.Context, in *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error) {
	first, next, err := b.store.Watch(ctx, in)
	if err != nil {
		return nil, nil, err
	}
	b.reached(first.GetRevision())
	return first, func() (*agentv1.WatchResponse, error) {
		response, err := next()
		if err != nil {
			return nil, err
		}
		b.reached(response.GetRevision())
		var shown []*agentv1.Record
		for _, e := range response.GetEvents() {
			shown = append(shown, e.GetRecord(), e.GetPrevious())
		}
		return response, b.show(ctx, shown...)
	}, nil
}

// Revisions implements records.Backend.
func (b *Backend) Revisions(ctx context.Context) (current, oldest uint64, err error) {
	return b.store.Revisions(ctx)
}

func (b *Backend) reached(revision uint64) {
	for seen := b.revision.Load(); seen < revision && !b.revision.CompareAndSwap(seen, revision); seen = b.revision.Load() {
	}
}

// listedNamespace returns the namespace of a list that is of one namespace, of all
// of it, and of now.
func (b *Backend) listedNamespace(in *agentv1.ListRequest) (string, bool) {
	rest, ok := strings.CutPrefix(in.GetPrefix(), b.prefix)
	namespace, tail, whole := strings.Cut(rest, "/")
	return namespace, ok && whole && tail == "" && in.GetRevision() == 0 && in.GetStartKey() == ""
}

// unknown returns the namespaces of records that may not be in the ConfigMap yet.
func (b *Backend) unknown(shown ...*agentv1.Record) map[string]types.UID {
	unknown := map[string]types.UID{}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range shown {
		rest, ok := strings.CutPrefix(r.GetKey(), b.prefix)
		if !ok { // No record at all.
			continue
		}
		namespace, _, _ := strings.Cut(rest, "/")
		uid := b.occupied.host.uid(namespace)
		if added, found := b.added[namespace]; !found || added != uid {
			unknown[namespace] = uid
		}
	}
	return unknown
}

// show adds the namespaces of records before a client sees the records.
func (b *Backend) show(ctx context.Context, shown ...*agentv1.Record) error {
	unknown := b.unknown(shown...)
	if len(unknown) == 0 {
		b.completeOnce(ctx)
		return nil
	}
	if err := b.occupied.add(ctx, unknown, false); err != nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("cannot record in ConfigMap %s/%s that a namespace holds something: %v; check the rights of this server",
			b.occupied.host.SystemNamespace, b.occupied.name, err))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for namespace, uid := range unknown {
		b.added[namespace] = uid
	}
	return nil
}

// completeOnce adds all namespaces that the store holds, in the background: an answer does
// not depend on it. It is tried again until it succeeds.
func (b *Backend) completeOnce(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.complete || b.completing {
		return
	}
	b.completing = true
	go func() {
		err := b.occupied.add(context.WithoutCancel(ctx), nil, true)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot complete the namespaces that hold something", "configMap", b.occupied.name)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.complete, b.completing = err == nil, false
	}()
}

// uid is empty when there is no such namespace.
func (h Host) uid(namespace string) types.UID {
	found, err := h.Namespaces.Get(namespace)
	if err != nil { // A lister fails for no other reason.
		return ""
	}
	return found.UID
}

// exists reports whether a namespace exists. It asks kube-apiserver itself.
func (h Host) exists(ctx context.Context, namespace string) (bool, error) {
	_, err := h.Client.Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return true, err
}

func (h Host) configMaps() coreclient.ConfigMapInterface {
	return h.Client.ConfigMaps(h.SystemNamespace)
}

func newConfigMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"app.kubernetes.io/part-of": "hsm.j5t.io", "app.kubernetes.io/managed-by": "hsm-apiserver",
	}}}
}
