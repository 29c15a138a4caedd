// SPDX-License-Identifier: Apache-2.0

package configmap_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/configmap"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/storagesuite"
	"j5t.io/hsm/test/framework/suite"
)

const (
	hostHistory  = "the history is the host's, which compacts it when it likes"
	otherWriters = "it counts revisions, and the host has other writers"
)

func TestOnHost(t *testing.T) {
	plane := suite.StartControlPlane(t, controlplane.Options{})
	config := *plane.Admin
	config.QPS = -1
	host, err := kubernetes.NewForConfig(&config)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("suite", func(t *testing.T) {
		run, skipped := storagesuite.Run(t, func(t *testing.T) storagesuite.Backend {
			return storagesuite.Backend{Backend: configmap.New(host.CoreV1(), newNamespace(t, host), "pods")}
		}, map[string]string{
			"RunTestCreateWithTTL":                  storagesuite.TTL,
			"RunTestGuaranteedUpdateWithTTL":        storagesuite.TTL,
			"RunTestList":                           hostHistory,
			"RunTestListInconsistentContinuation":   hostHistory,
			"RunTestCompactRevision":                hostHistory,
			"RunTestWatchFromZero":                  hostHistory,
			"RunTestConsistentList":                 otherWriters,
			"RunWatchSemanticInitialEventsExtended": otherWriters,
			"RunWatchListMatchSingle":               otherWriters,
		})
		fmt.Printf("figure: configmap-suite-run %d\nfigure: configmap-suite-skipped %d\n", run, skipped)
	})
	t.Run("what others have made is reported", func(t *testing.T) { testForeign(t, host) })
	t.Run("a watch outlives that of the host", func(t *testing.T) { testRewatch(t, host) })
	t.Run("what the host has forgotten can be deleted", func(t *testing.T) { testForgotten(t, host) })
	t.Run("the host is away", func(t *testing.T) {
		backend := configmap.New(host.CoreV1(), newNamespace(t, host), "pods")
		plane.Stop()
		_, err := backend.Get(t.Context(), &agentv1.GetRequest{Key: "/pods/ns/a"})
		if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "kube-apiserver of the host") {
			t.Errorf("get: %v", err)
		}
	})
}

// forgetful is a host that remembers no change: it was busy since, or was restarted.
type forgetful struct{ coreclient.ConfigMapsGetter }

func (f forgetful) ConfigMaps(namespace string) coreclient.ConfigMapInterface {
	return forgetfulConfigMaps{f.ConfigMapsGetter.ConfigMaps(namespace)}
}

type forgetfulConfigMaps struct{ coreclient.ConfigMapInterface }

func (f forgetfulConfigMaps) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	if options.ResourceVersion == "" {
		return f.ConfigMapInterface.Watch(ctx, options)
	}
	expired := watch.NewFakeWithChanSize(1, false)
	expired.Error(new(apierrors.NewResourceExpired("too old resource version").Status()))
	expired.Stop()
	return expired, nil
}

// testForgotten deletes two records of one name, as of versions of which the host cannot tell
// what has happened since.
func testForgotten(t *testing.T, host kubernetes.Interface) {
	backend := configmap.New(forgetful{host.CoreV1()}, newNamespace(t, host), "pods")
	const key = "/pods/ns/old"
	last := uint64(0)
	for range 2 {
		created, err := backend.Commit(t.Context(), &agentv1.CommitRequest{
			Key: key, Change: &agentv1.CommitRequest_Put{Put: &agentv1.Put{Data: []byte("{}")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		deleted, err := backend.Commit(t.Context(), &agentv1.CommitRequest{
			Key: key, ExpectedRevision: created.GetRevision(), Change: &agentv1.CommitRequest_Delete{Delete: &agentv1.Delete{}},
		})
		if err != nil || !deleted.GetCommitted() || created.GetRevision() <= last || deleted.GetRevision() <= created.GetRevision() {
			t.Fatalf("created %v and deleted %v after revision %d: %v", created, deleted, last, err)
		}
		last = deleted.GetRevision()
	}
}

// testForeign shows that a ConfigMap of others is neither taken for an object,
// nor dropped, nor overwritten.
func testForeign(t *testing.T, host kubernetes.Interface) {
	namespace := newNamespace(t, host)
	configMaps := host.CoreV1().ConfigMaps(namespace)
	backend := configmap.New(host.CoreV1(), namespace, "pods")
	create := func(t *testing.T, key string) *agentv1.CommitResponse {
		t.Helper()
		response, err := backend.Commit(t.Context(), &agentv1.CommitRequest{
			Key: key, Change: &agentv1.CommitRequest_Put{Put: &agentv1.Put{Data: []byte("{}")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	if !create(t, "/pods/ns/good").GetCommitted() {
		t.Fatal("not created")
	}

	label := map[string]string{configmap.ResourceLabel: "pods"}
	for _, foreign := range []*corev1.ConfigMap{
		{ObjectMeta: metav1.ObjectMeta{Name: "by-hand", Labels: label}},
		{ObjectMeta: metav1.ObjectMeta{Name: "renamed", Labels: label}, Data: map[string]string{"key": "/pods/ns/good", "object": "{}"}},
	} {
		t.Run(foreign.Name, func(t *testing.T) {
			_, next, err := backend.Watch(t.Context(), &agentv1.WatchRequest{Prefix: "/pods/"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := configMaps.Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			_, _, err = backend.List(t.Context(), &agentv1.ListRequest{Prefix: "/pods/"})
			mustName(t, err, foreign.Name)
			for err = nil; err == nil; {
				_, err = next()
			}
			mustName(t, err, foreign.Name)
			if err := configMaps.Delete(t.Context(), foreign.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			list, _, err := backend.List(t.Context(), &agentv1.ListRequest{Prefix: "/pods/"})
			if err != nil || len(list) != 1 {
				t.Errorf("after it is gone: %v, %v", list, err)
			}
		})
	}
	t.Run("unlabelled", func(t *testing.T) {
		foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "pods.ns.taken"}, Data: map[string]string{"mine": "1"}}
		if _, err := configMaps.Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if create(t, "/pods/ns/taken").GetCommitted() {
			t.Error("it was overwritten")
		}
		_, err := backend.Get(t.Context(), &agentv1.GetRequest{Key: "/pods/ns/taken"})
		mustName(t, err, foreign.Name)
		if kept, err := configMaps.Get(t.Context(), foreign.Name, metav1.GetOptions{}); err != nil || kept.Data["mine"] != "1" {
			t.Errorf("it is not as it was: %v, %v", kept, err)
		}
	})
}

// mustName checks for the error that names a ConfigMap to remove.
func mustName(t *testing.T, err error, name string) {
	t.Helper()
	if apierrors.ReasonForError(err) != metav1.StatusReasonStoreReadError || !strings.Contains(err.Error(), "/"+name+" ") {
		t.Errorf("want an error that names %s, got %v", name, err)
	}
}

// shortWatch lets the host end each watch after a second.
type shortWatch struct {
	coreclient.ConfigMapInterface
	begun chan<- struct{}
}

func (s shortWatch) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	select {
	case s.begun <- struct{}{}:
	default:
	}
	second := int64(1)
	o.TimeoutSeconds = &second
	return s.ConfigMapInterface.Watch(ctx, o)
}

func testRewatch(t *testing.T, host kubernetes.Interface) {
	namespace := newNamespace(t, host)
	begun := make(chan struct{}, 2)
	backend := configmap.New(getter(func(ns string) coreclient.ConfigMapInterface {
		return shortWatch{host.CoreV1().ConfigMaps(ns), begun}
	}), namespace, "pods")

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	_, next, err := backend.Watch(ctx, &agentv1.WatchRequest{Prefix: "/pods/"})
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	events := make(chan *agentv1.Event)
	go func() {
		defer close(events)
		for {
			response, err := next()
			if err != nil {
				return
			}
			for _, e := range response.GetEvents() {
				events <- e
			}
		}
	}()
	select {
	case <-begun: // Again.
	case <-ctx.Done():
		t.Fatal("the watch is not begun again")
	}
	put := &agentv1.CommitRequest{Key: "/pods/ns/a", Change: &agentv1.CommitRequest_Put{Put: &agentv1.Put{Data: []byte("{}")}}}
	response, err := configmap.New(host.CoreV1(), namespace, "pods").Commit(ctx, put)
	if err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.GetRevision() != response.GetRevision() || e.GetRecord().GetKey() != put.GetKey() || e.GetPrevious() != nil {
		t.Errorf("want the creation at %d, got %v", response.GetRevision(), e)
	}
	cancel()
	for e := range events {
		t.Errorf("one event too many: %v", e)
	}
}

type getter func(namespace string) coreclient.ConfigMapInterface

func (g getter) ConfigMaps(namespace string) coreclient.ConfigMapInterface { return g(namespace) }

func newNamespace(t *testing.T, host kubernetes.Interface) string {
	t.Helper()
	namespace, err := host.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return namespace.Name
}
