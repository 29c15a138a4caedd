// SPDX-License-Identifier: Apache-2.0

package namespaces_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/namespaces"
	"j5t.io/hsm/pkg/storage/records"
	"j5t.io/hsm/pkg/storebinding"
	"j5t.io/hsm/test/framework/await"
)

const prefix = "/hsm.j5t.io/hsmsecrets/"

var errAway = apierrors.NewServiceUnavailable("the token is away")

// store is a backend that can be away.
type store struct {
	records.Backend
	mu       sync.Mutex
	err      error
	keys     map[string]bool
	revision uint64
	events   []*agentv1.Event
	onCommit func()
}

func (s *store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *store) Get(_ context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	response := &agentv1.GetResponse{Revision: s.revision}
	if s.keys[in.GetKey()] {
		response.Record = &agentv1.Record{Key: in.GetKey()}
	}
	return response, s.err
}

func (s *store) List(_ context.Context, in *agentv1.ListRequest) ([]*agentv1.Record, *agentv1.ListEnd, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*agentv1.Record
	for key := range s.keys {
		if strings.HasPrefix(key, in.GetPrefix()) {
			list = append(list, &agentv1.Record{Key: key})
		}
	}
	return list, &agentv1.ListEnd{Revision: s.revision}, s.err
}

func (s *store) Commit(_ context.Context, in *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onCommit != nil {
		s.onCommit()
	}
	if s.err != nil {
		return nil, s.err
	}
	s.revision++
	if in.GetDelete() != nil {
		delete(s.keys, in.GetKey())
	} else {
		s.keys[in.GetKey()] = true
	}
	return &agentv1.CommitResponse{Committed: true, Revision: s.revision}, nil
}

func (s *store) Watch(context.Context, *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error) {
	return &agentv1.WatchResponse{Revision: s.revision}, func() (*agentv1.WatchResponse, error) {
		return &agentv1.WatchResponse{Events: s.events, Revision: s.revision}, nil
	}, s.err
}

func (s *store) Revisions(context.Context) (current, oldest uint64, err error) {
	return s.revision, 0, s.err
}

// world is a host cluster, and a store that all its replicas use.
type world struct {
	*testing.T
	store *store
	host  *fake.Clientset
	// seen is what the replicas' informers know.
	seen cache.Indexer
}

func newWorld(t *testing.T, namespaces ...string) *world {
	w := &world{
		T: t, store: &store{keys: map[string]bool{}, revision: 7}, host: fake.NewClientset(),
		seen: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}),
	}
	for _, name := range namespaces {
		w.makeNamespace(name, "1")
	}
	// As the manifests install it.
	installed := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "hsmsecrets-namespaces"}}
	if _, err := w.host.CoreV1().ConfigMaps("hsm-system").Create(t.Context(), installed, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) deleteConfigMap() {
	w.Helper()
	if err := w.host.CoreV1().ConfigMaps("hsm-system").Delete(w.Context(), "hsmsecrets-namespaces", metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) makeNamespace(name, uid string) {
	w.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid)}}
	if _, err := w.host.CoreV1().Namespaces().Create(w.Context(), namespace, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	if err := w.seen.Add(namespace); err != nil {
		w.Fatal(err)
	}
}

func (w *world) removeNamespace(name string) {
	w.Helper()
	if err := w.host.CoreV1().Namespaces().Delete(w.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
	if err := w.seen.Delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		w.Fatal(err)
	}
}

// replica is a server that has just been started.
func (w *world) replica() *namespaces.Backend {
	return namespaces.New(w.store, prefix, "hsmsecrets", namespaces.Host{
		Client: w.host.CoreV1(), SystemNamespace: "hsm-system", Namespaces: corelisters.NewNamespaceLister(w.seen),
	})
}

func (w *world) create(b *namespaces.Backend, key string) {
	w.Helper()
	if _, err := b.Commit(w.Context(), put(key)); err != nil {
		w.Fatal(err)
	}
}

func put(key string) *agentv1.CommitRequest {
	return &agentv1.CommitRequest{Key: prefix + key, Change: &agentv1.CommitRequest_Put{Put: &agentv1.Put{}}}
}

// away takes the store away until the test of it is over.
func (w *world) away(test func()) {
	w.store.fail(errAway)
	defer w.store.fail(nil)
	test()
}

func (w *world) wantEmpty(b *namespaces.Backend, namespace string) {
	w.Helper()
	list, end, err := b.List(w.Context(), &agentv1.ListRequest{Prefix: prefix + namespace + "/"})
	if err != nil || len(list) != 0 || end.GetRevision() == 0 {
		w.Errorf("list of %s: %v at %d, %v; want it to be empty", namespace, list, end.GetRevision(), err)
	}
}

func (w *world) wantAway(b *namespaces.Backend, in *agentv1.ListRequest) {
	w.Helper()
	if list, _, err := b.List(w.Context(), in); !errors.Is(err, errAway) || list != nil {
		w.Errorf("list %v: %v, %v; want the store's error", in, list, err)
	}
}

func namespaced(namespace string) *agentv1.ListRequest {
	return &agentv1.ListRequest{Prefix: prefix + namespace + "/"}
}

// TestEmptyWhileAway: a namespace without records is empty for every replica,
// one that has never reached the store included; nothing else is.
func TestEmptyWhileAway(t *testing.T) {
	w := newWorld(t, "full", "empty")
	w.create(w.replica(), "full/db")
	for name, b := range map[string]*namespaces.Backend{"the same": w.replica(), "another": w.replica()} {
		w.away(func() {
			w.wantEmpty(b, "empty")
			for _, in := range []*agentv1.ListRequest{
				namespaced("full"),
				{Prefix: prefix},
				{Prefix: ""},
				{Prefix: prefix + "empty/db/"},
				{Prefix: prefix + "emp"},
				{Prefix: prefix + "empty/", Revision: 3},
				{Prefix: prefix + "empty/", StartKey: prefix + "empty/a"},
			} {
				w.wantAway(b, in)
			}
			if _, err := b.Get(t.Context(), &agentv1.GetRequest{Key: prefix + "empty/db"}); !errors.Is(err, errAway) {
				t.Errorf("%s replica: get in an empty namespace: %v, want the store's error", name, err)
			}
		})
	}
}

// TestDeletedConfigMap: without it nothing is known to be empty, and it comes
// back with all that the store holds.
func TestDeletedConfigMap(t *testing.T) {
	w := newWorld(t, "old", "prod", "empty")
	b := w.replica()
	w.create(b, "old/db")
	w.deleteConfigMap()
	w.away(func() {
		w.wantAway(b, namespaced("old"))
		w.wantAway(b, namespaced("empty"))
		if _, err := b.Commit(t.Context(), put("prod/db")); !errors.Is(err, errAway) {
			t.Errorf("%v, want the store's error", err)
		}
	})
	w.create(b, "prod/db")
	w.away(func() {
		w.wantAway(w.replica(), namespaced("old"))
		w.wantAway(w.replica(), namespaced("prod"))
		w.wantEmpty(w.replica(), "empty")
	})
}

// bind binds the cluster to a store, as the server does when it first reaches one.
func (w *world) bind() {
	w.Helper()
	if _, err := w.configMaps().Create(w.Context(), storebinding.New("id"), metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) configMaps() coreclient.ConfigMapInterface {
	return w.host.CoreV1().ConfigMaps("hsm-system")
}

func (w *world) configMap() *corev1.ConfigMap {
	w.Helper()
	m, err := w.configMaps().Get(w.Context(), "hsmsecrets-namespaces", metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return m
}

// TestChangedConfigMap: what somebody else has written is not believed, by no replica, also
// after a restart. It is made again when the store is back.
func TestChangedConfigMap(t *testing.T) {
	for name, change := range map[string]func(old, now *corev1.ConfigMap){
		"replaced by its manifest": func(_, now *corev1.ConfigMap) { now.Data, now.Annotations = nil, nil },
		"emptied":                  func(_, now *corev1.ConfigMap) { now.Data = nil },
		"one removed":              func(_, now *corev1.ConfigMap) { delete(now.Data, "prod") },
		"an older one put back":    func(old, now *corev1.ConfigMap) { now.Data, now.Annotations = old.Data, old.Annotations },
		"the seal removed":         func(_, now *corev1.ConfigMap) { now.Annotations = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "old", "prod", "empty")
			w.bind()
			b := w.replica()
			w.create(b, "old/db")
			old := w.configMap()
			w.create(b, "prod/db")
			w.away(func() { w.wantEmpty(b, "empty") })

			now := w.configMap()
			change(old, now)
			if _, err := w.configMaps().Update(t.Context(), now, metav1.UpdateOptions{FieldManager: "kubectl-replace"}); err != nil {
				t.Fatal(err)
			}
			restarted := w.replica()
			w.away(func() {
				for _, replica := range []*namespaces.Backend{b, restarted} {
					for _, namespace := range []string{"old", "prod", "empty"} {
						w.wantAway(replica, namespaced(namespace))
					}
				}
			})
			// The replica that has added all of them shows one of them again.
			if _, err := b.Get(t.Context(), &agentv1.GetRequest{Key: prefix + "old/db"}); err != nil {
				t.Fatal(err)
			}
			w.away(func() {
				for _, replica := range []*namespaces.Backend{b, restarted, w.replica()} {
					w.wantAway(replica, namespaced("old"))
					w.wantAway(replica, namespaced("prod"))
					w.wantEmpty(replica, "empty")
				}
			})
		})
	}
}

// TestCompleted: a server completes the ConfigMap from the store, though no record is shown
// and though it is sealed: the whole cluster may have been set back.
func TestCompleted(t *testing.T) {
	w := newWorld(t, "old", "prod", "empty")
	w.bind()
	w.create(w.replica(), "old/db")
	w.store.keys[prefix+"prod/db"] = true
	b := w.replica()
	if _, _, err := b.List(t.Context(), namespaced("empty")); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, 10*time.Second, func(context.Context) error {
		if _, found := w.configMap().Data["prod"]; !found {
			return errors.New("prod is missing")
		}
		return nil
	})
	w.away(func() {
		w.wantAway(w.replica(), namespaced("prod"))
		w.wantEmpty(w.replica(), "empty")
	})
}

// TestBoundAndEmpty: a store that holds nothing, and goes away, keeps no namespace from
// being deleted.
func TestBoundAndEmpty(t *testing.T) {
	w := newWorld(t, "empty")
	w.bind()
	if _, _, err := w.replica().List(t.Context(), namespaced("empty")); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, 10*time.Second, func(context.Context) error {
		if len(w.configMap().Annotations) == 0 {
			return errors.New("the ConfigMap is not sealed")
		}
		return nil
	})
	w.away(func() { w.wantEmpty(w.replica(), "empty") })
}

// TestOtherErrors are of no store that is away.
func TestOtherErrors(t *testing.T) {
	w := newWorld(t, "empty")
	w.store.err = apierrors.NewTimeoutError("no answer", 0)
	if _, _, err := w.replica().List(t.Context(), namespaced("empty")); !apierrors.IsTimeout(err) {
		t.Errorf("%v, want the store's error", err)
	}
}

// TestShown: records that were not created by a replica have their
// namespace added by the replica that shows them first.
func TestShown(t *testing.T) {
	show := map[string]func(*testing.T, *namespaces.Backend) error{
		"get": func(t *testing.T, b *namespaces.Backend) error {
			_, err := b.Get(t.Context(), &agentv1.GetRequest{Key: prefix + "prod/db"})
			return err
		},
		"list": func(t *testing.T, b *namespaces.Backend) error {
			_, _, err := b.List(t.Context(), &agentv1.ListRequest{Prefix: prefix})
			return err
		},
		"watch": func(t *testing.T, b *namespaces.Backend) error {
			_, next, err := b.Watch(t.Context(), &agentv1.WatchRequest{Prefix: prefix})
			if err != nil {
				return err
			}
			_, err = next()
			return err
		},
		"delete": func(t *testing.T, b *namespaces.Backend) error {
			_, err := b.Commit(t.Context(), &agentv1.CommitRequest{
				Key: prefix + "prod/other", ExpectedRevision: 1, Change: &agentv1.CommitRequest_Delete{Delete: &agentv1.Delete{}},
			})
			return err
		},
	}
	for name, show := range show {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "prod")
			w.store.keys[prefix+"prod/db"] = true
			w.store.events = []*agentv1.Event{{Previous: &agentv1.Record{Key: prefix + "prod/db"}}}
			if err := show(t, w.replica()); err != nil {
				t.Fatal(err)
			}
			w.away(func() { w.wantAway(w.replica(), namespaced("prod")) })
		})
		t.Run(name+" without rights", func(t *testing.T) {
			w := newWorld(t, "prod")
			w.store.keys[prefix+"prod/db"] = true
			w.store.events = []*agentv1.Event{{Record: &agentv1.Record{Key: prefix + "prod/db"}}}
			w.host.PrependReactor("update", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, errors.New("forbidden")
			})
			if err := show(t, w.replica()); !apierrors.IsServiceUnavailable(err) {
				t.Errorf("%v, want 503: what cannot be recorded must not be shown", err)
			}
		})
	}
}

// TestAddedBeforeTheCommit: the namespace is in the ConfigMap when the store is asked.
func TestAddedBeforeTheCommit(t *testing.T) {
	w := newWorld(t, "prod")
	w.store.onCommit = func() {
		m, err := w.host.CoreV1().ConfigMaps("hsm-system").Get(t.Context(), "hsmsecrets-namespaces", metav1.GetOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		if _, added := m.Data["prod"]; !added {
			t.Error("the store was asked first")
		}
	}
	w.create(w.replica(), "prod/db")
}

// TestFailedCreate adds no namespace while the store is away.
func TestFailedCreate(t *testing.T) {
	w := newWorld(t, "prod")
	b := w.replica()
	w.away(func() {
		if _, err := b.Commit(t.Context(), put("prod/db")); !errors.Is(err, errAway) {
			t.Errorf("%v, want the store's error", err)
		}
		w.wantEmpty(b, "prod")
	})
}

// TestDeletedNamespace: it is removed when it holds nothing, and a new one of its
// name is added again, also by a replica that remembers the old one.
func TestDeletedNamespace(t *testing.T) {
	w := newWorld(t, "gone", "left", "prod")
	b := w.replica()
	w.create(b, "gone/db")
	w.create(b, "left/db")
	delete(w.store.keys, prefix+"gone/db")
	w.removeNamespace("gone")
	w.removeNamespace("left")
	w.create(b, "prod/db") // The occasion to remove.
	w.away(func() {
		w.wantEmpty(b, "gone")
		w.wantAway(b, namespaced("left"))
		w.wantAway(b, namespaced("prod"))
	})
	w.makeNamespace("gone", "2")
	w.create(b, "gone/db")
	w.away(func() { w.wantAway(b, namespaced("gone")) })
}

// TestConcurrentAdds loses none, though another replica writes in between.
func TestConcurrentAdds(t *testing.T) {
	w := newWorld(t)
	const count = 20
	var updates atomic.Int32
	w.host.PrependReactor("update", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		if updates.Add(1)%3 == 0 {
			return true, nil, apierrors.NewConflict(corev1.Resource("configmaps"), "hsmsecrets-namespaces", errors.New("it was written"))
		}
		return false, nil, nil
	})
	b := w.replica()
	for i := range count {
		w.makeNamespace(fmt.Sprint("n", i), "1")
	}
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() { w.create(b, fmt.Sprintf("n%d/db", i)) })
	}
	wg.Wait()
	w.away(func() {
		for i := range count {
			w.wantAway(w.replica(), namespaced(fmt.Sprint("n", i)))
		}
	})
}
