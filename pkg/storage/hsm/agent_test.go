// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	hsmapi "j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/registry/hsm/hsmsecret"
	"j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/test/agenttest"
)

const secretKey = "/hsm.j5t.io/hsmsecrets/prod/db"

// newSecrets is the store of HSMSecrets as the API server makes it.
func newSecrets(t *testing.T, client *hsm.Client) storage.Interface {
	t.Helper()
	scheme := runtime.NewScheme()
	install.Install(scheme)
	store, _, err := hsm.Decorator(client, hsmsecret.NewLayout)(
		&storagebackend.ConfigForResource{
			Config:        storagebackend.Config{Codec: serializer.NewCodecFactory(scheme).LegacyCodec(v1alpha1.SchemeGroupVersion)},
			GroupResource: schema.GroupResource{Group: hsmapi.GroupName, Resource: "hsmsecrets"},
		},
		"/hsm.j5t.io/hsmsecrets", nil, func() runtime.Object { return &hsmapi.HSMSecret{} }, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// newSecret has all defaults, as what a request has created.
func newSecret() *hsmapi.HSMSecret {
	autoSync := true
	return &hsmapi.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "prod", UID: "u-1"},
		Spec: hsmapi.HSMSecretSpec{
			HSMPath: "secrets/prod/db", SecretName: "db", SecretType: corev1.SecretTypeOpaque, AutoSync: &autoSync, SyncInterval: 300,
			SyncDirection: hsmapi.SyncDirectionBidirectional, DeletionPolicy: hsmapi.DeletionPolicyDelete,
		},
		Data: map[string][]byte{"password": []byte("correct horse")},
	}
}

func change(t *testing.T, store storage.Interface, f func(*hsmapi.HSMSecret)) *hsmapi.HSMSecret {
	t.Helper()
	out := &hsmapi.HSMSecret{}
	err := store.GuaranteedUpdate(t.Context(), secretKey, out, false, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		f(obj.(*hsmapi.HSMSecret))
		return obj, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTokenWrites counts what an HSMSecret costs at the token: flash wears.
func TestTokenWrites(t *testing.T) {
	a := agenttest.Start(t)
	store := newSecrets(t, newClient(t, a))
	created := &hsmapi.HSMSecret{}
	if err := store.Create(t.Context(), secretKey, newSecret(), created, 0); err != nil {
		t.Fatal(err)
	}
	if created.Status.DataVersion != created.ResourceVersion || created.Status.PrimaryDevice != a.Token.Serial {
		t.Errorf("created at %s on %s: %+v", created.ResourceVersion, a.Token.Serial, created.Status)
	}

	for _, c := range []struct {
		name   string
		change func(*hsmapi.HSMSecret)
		writes uint64
		moves  bool // The resourceVersion.
	}{
		{"nothing", func(*hsmapi.HSMSecret) {}, 0, false},
		{"status", func(s *hsmapi.HSMSecret) { s.Status.SyncStatus = hsmapi.SyncStatusInSync }, 0, true},
		{"status that the server fills in", func(s *hsmapi.HSMSecret) { s.Status.DataVersion = "1" }, 0, false},
		{"label", func(s *hsmapi.HSMSecret) { s.Labels = map[string]string{"a": "b"} }, 1, true},
		{"value", func(s *hsmapi.HSMSecret) { s.Data["password"] = []byte("battery staple") }, 1, true},
	} {
		read := &hsmapi.HSMSecret{}
		if err := store.Get(t.Context(), secretKey, storage.GetOptions{}, read); err != nil {
			t.Fatal(err)
		}
		before := a.Calls()
		out := change(t, store, c.change)
		if writes := a.Calls().Creates - before.Creates; writes != c.writes {
			t.Errorf("%s: %d writes, want %d", c.name, writes, c.writes)
		}
		if moved := out.ResourceVersion != read.ResourceVersion; moved != c.moves {
			t.Errorf("%s: resourceVersion %s, was %s", c.name, out.ResourceVersion, read.ResourceVersion)
		}
		if dataMoved := out.Status.DataVersion != read.Status.DataVersion; dataMoved != (c.name == "value") {
			t.Errorf("%s: dataVersion %s, was %s", c.name, out.Status.DataVersion, read.Status.DataVersion)
		}
	}

	before := a.Calls()
	if err := store.Get(t.Context(), secretKey, storage.GetOptions{}, &hsmapi.HSMSecret{}); err != nil {
		t.Fatal(err)
	}
	if reads := a.Calls().ValueReads - before.ValueReads; reads != 1 {
		t.Errorf("a get took %d reads of the token, want 1", reads)
	}
}

func TestAddressIsUnique(t *testing.T) {
	store := newSecrets(t, newClient(t, agenttest.Start(t)))
	if err := store.Create(t.Context(), secretKey, newSecret(), nil, 0); err != nil {
		t.Fatal(err)
	}
	err := store.Create(t.Context(), secretKey+"2", newSecret(), nil, 0)
	if !apierrors.IsInvalid(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldValueDuplicate) {
		t.Errorf("want 422 for spec.hsmPath, got %v", err)
	}
}

// TestTokenIsLost is law 3: an outage is never taken for a deletion.
func TestTokenIsLost(t *testing.T) {
	a := agenttest.Start(t)
	client := newClient(t, a)
	store := newSecrets(t, client)
	if err := store.Create(t.Context(), secretKey, newSecret(), nil, 0); err != nil {
		t.Fatal(err)
	}
	follow := func() watch.Interface {
		w, err := store.Watch(t.Context(), "/hsm.j5t.io/hsmsecrets/", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	open := follow()
	if e := <-open.ResultChan(); e.Type != watch.Added {
		t.Fatalf("want the secret, got %v", e)
	}
	a.Stop()

	if e := <-open.ResultChan(); e.Type != watch.Error || !apierrors.IsServiceUnavailable(apierrors.FromObject(e.Object)) {
		t.Errorf("open watch: %v", e)
	}
	everything := storage.ListOptions{Recursive: true, Predicate: storage.Everything}
	_, watchErr := store.Watch(t.Context(), "/hsm.j5t.io/hsmsecrets/", everything)
	for name, err := range map[string]error{
		"get":     store.Get(t.Context(), secretKey, storage.GetOptions{}, &hsmapi.HSMSecret{}),
		"no such": store.Get(t.Context(), secretKey+"2", storage.GetOptions{IgnoreNotFound: true}, &hsmapi.HSMSecret{}),
		"list":    store.GetList(t.Context(), "/hsm.j5t.io/hsmsecrets/", everything, &hsmapi.HSMSecretList{}),
		"create":  store.Create(t.Context(), secretKey+"2", newSecret(), nil, 0),
		"delete": store.Delete(t.Context(), secretKey, &hsmapi.HSMSecret{}, nil, storage.ValidateAllObjectFunc, nil,
			storage.DeleteOptions{}),
		"watch": watchErr,
	} {
		if !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s: want 503, got %v", name, err)
		}
	}

	a.Restart()
	a.WaitReady()
	again := follow()
	defer again.Stop()
	if e := <-again.ResultChan(); e.Type != watch.Added {
		t.Errorf("after its return: %v", e)
	}
}

// TestWatchesLeaveNothing opens and closes 1,000 watches.
func TestWatchesLeaveNothing(t *testing.T) {
	a := agenttest.Start(t)
	client := newClient(t, a)
	store := newSecrets(t, client)
	if err := store.Create(t.Context(), secretKey, newSecret(), nil, 0); err != nil {
		t.Fatal(err)
	}
	others := goleak.IgnoreCurrent()

	const watches, atOnce = 1000, 50
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() {
			for range watches / atOnce {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				w, err := store.Watch(ctx, "/hsm.j5t.io/hsmsecrets/prod", storage.ListOptions{
					Recursive: true, ProgressNotify: true, Predicate: storage.Everything,
				})
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				// Half of the readers read, and half of the watches are stopped.
				if i%2 == 0 {
					<-w.ResultChan()
				}
				if i%4 < 2 {
					w.Stop()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	goleak.VerifyNone(t, others)
	fmt.Printf("figure: watches-opened %d\n", watches)
}
