// SPDX-License-Identifier: Apache-2.0

// Package inventory knows which namespaces may hold records of a store that is
// away, so that the others can be listed as empty, and deleted. It owns a
// ConfigMap of their names. It never says that a record is absent, and never
// keeps the name of one.
//
// The rule, by which "empty" is the truth, for all replicas and after restarts:
//
//   - A namespace is noted before a record is created in it, and before a record
//     of it is shown to anybody: by a get, a list, a watch or a commit.
//   - It is struck out only when it does not exist any more, and the store has
//     said that it holds nothing of it.
//   - The ConfigMap is installed empty, with the server. If it is deleted nothing
//     is known, until it is made again from all that the store holds.
//   - So, whatever clients know of, a namespace that is not noted holds none of
//     it. A list of such a namespace is empty while the store is away. All other
//     requests get the store's error.
package inventory

import (
	"context"
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

// Host is where namespaces exist, and where they are noted.
type Host struct {
	Client coreclient.CoreV1Interface
	// SystemNamespace is that of the ConfigMap.
	SystemNamespace string
	// Namespaces may lag behind.
	Namespaces corelisters.NamespaceLister
}

// Backend adds the inventory to a backend. It is safe for concurrent use.
type Backend struct {
	store  records.Backend
	prefix string
	note   note

	// revision is the highest one that the store has answered with.
	revision atomic.Uint64

	mu sync.Mutex
	// noted are the namespaces, with their UIDs, of which it is known. A namespace
	// that was deleted may have been struck out since: it has another UID then.
	noted map[string]types.UID
}

var _ records.Backend = (*Backend)(nil)

// New adds the inventory of one namespaced resource to a backend. The keys of
// its records are prefix, namespace, "/" and name.
func New(store records.Backend, prefix, resource string, host Host) *Backend {
	b := &Backend{store: store, prefix: prefix, noted: map[string]types.UID{}}
	// The first answer to an empty list may come before any of the store.
	b.revision.Store(1)
	b.note = note{
		host:    host,
		name:    resource + "-namespaces",
		writing: make(chan struct{}, 1),
		holdsNothing: func(ctx context.Context, namespace string) (bool, error) {
			found, _, err := store.List(ctx, &agentv1.ListRequest{Prefix: prefix + namespace + "/", Limit: 1, WithoutData: true})
			return len(found) == 0, err
		},
		holding: func(ctx context.Context) (namespaces []string, err error) {
			all, _, err := store.List(ctx, &agentv1.ListRequest{Prefix: prefix, WithoutData: true})
			for _, r := range all {
				namespace, _, _ := strings.Cut(strings.TrimPrefix(r.GetKey(), prefix), "/")
				namespaces = append(namespaces, namespace)
			}
			return namespaces, err
		},
	}
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

// List implements records.Backend. Of a namespace that holds nothing it is empty
// while the store is away, as of the last revision that is known here. One that
// was never told is taken for the oldest: who watches from there has to list again.
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
	mayHold, noteErr := b.note.has(ctx, namespace)
	if noteErr != nil {
		klog.FromContext(ctx).Error(noteErr, "Cannot tell whether a namespace holds anything", "namespace", namespace)
	}
	if noteErr != nil || mayHold {
		return nil, nil, err
	}
	klog.FromContext(ctx).V(2).Info("The store is away, and holds nothing of this namespace", "namespace", namespace, "err", err)
	return nil, &agentv1.ListEnd{Revision: b.revision.Load()}, nil
}

// Commit implements records.Backend.
func (b *Backend) Commit(ctx context.Context, in *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
	changed := &agentv1.Record{Key: in.GetKey()}
	if len(b.unknown(changed)) > 0 {
		// A change that fails because the store is away leaves no note behind.
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

// listedNamespace is the one that a whole list of now is of.
func (b *Backend) listedNamespace(in *agentv1.ListRequest) (string, bool) {
	rest, ok := strings.CutPrefix(in.GetPrefix(), b.prefix)
	namespace, tail, whole := strings.Cut(rest, "/")
	return namespace, ok && whole && tail == "" && in.GetRevision() == 0 && in.GetStartKey() == ""
}

// unknown gives the namespaces of records of which it is not known that they are
// noted.
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
		uid := b.note.host.uid(namespace)
		if noted, found := b.noted[namespace]; !found || noted != uid {
			unknown[namespace] = uid
		}
	}
	return unknown
}

// show notes the namespaces of records before anybody is told of them.
func (b *Backend) show(ctx context.Context, shown ...*agentv1.Record) error {
	unknown := b.unknown(shown...)
	if len(unknown) == 0 {
		return nil
	}
	if err := b.note.add(ctx, unknown); err != nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("cannot note that a namespace holds something, in ConfigMap %s/%s: %v; check the rights of this server",
			b.note.host.SystemNamespace, b.note.name, err))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for namespace, uid := range unknown {
		b.noted[namespace] = uid
	}
	return nil
}

// uid is empty when there is no such namespace.
func (h Host) uid(namespace string) types.UID {
	found, err := h.Namespaces.Get(namespace)
	if err != nil { // A lister fails for no other reason.
		return ""
	}
	return found.UID
}

// exists asks the host itself.
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
