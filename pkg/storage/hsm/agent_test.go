// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"context"
	"fmt"
	"os"
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

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	hsmapi "j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/registry/hsm/hsmsecret"
	"j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/pkg/storage/records"
	"j5t.io/hsm/test/framework/agenttest"
)

const (
	secrets   = "/hsm.j5t.io/hsmsecrets/"
	secretKey = secrets + "prod/db"
)

var everything = storage.ListOptions{Recursive: true, Predicate: storage.Everything}

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
	for name, c := range map[string]struct {
		lose, giveBack func(*testing.T, *agenttest.Agent)
		watchGoesOn    bool // Silent, until the token is back.
	}{
		"the agent ends": {
			lose:     func(_ *testing.T, a *agenttest.Agent) { a.Stop() },
			giveBack: func(_ *testing.T, a *agenttest.Agent) { a.Restart() },
		},
		"the token is pulled": {
			lose: func(t *testing.T, a *agenttest.Agent) {
				rename(t, a.Token.Dir, a.Token.Dir+".pulled")
				// The agent notices when it is next asked.
				if _, err := newClient(t, a).Get(t.Context(), &agentv1.GetRequest{Key: secretKey}); err == nil {
					t.Error("a value was read without the token")
				}
				a.WaitReason(agentv1.Reason_REASON_TOKEN_ABSENT)
			},
			giveBack:    func(t *testing.T, a *agenttest.Agent) { rename(t, a.Token.Dir+".pulled", a.Token.Dir) },
			watchGoesOn: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := agenttest.Start(t)
			store := newSecrets(t, newClient(t, a))
			if err := store.Create(t.Context(), secretKey, newSecret(), nil, 0); err != nil {
				t.Fatal(err)
			}
			open := follow(t, store)
			c.lose(t, a)
			if !c.watchGoesOn {
				if e := <-open.ResultChan(); e.Type != watch.Error || !apierrors.IsServiceUnavailable(apierrors.FromObject(e.Object)) {
					t.Errorf("open watch: %v", e)
				}
			}
			everythingIsUnavailable(t, store)

			c.giveBack(t, a)
			a.WaitReady()
			if !c.watchGoesOn {
				open = follow(t, store)
			}
			change(t, store, func(s *hsmapi.HSMSecret) { s.Labels = map[string]string{"back": "yes"} })
			if e := <-open.ResultChan(); e.Type != watch.Modified {
				t.Errorf("after its return: %v", e)
			}
			open.Stop()
		})
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// follow begins a watch, and reads the one secret that is there.
func follow(t *testing.T, store storage.Interface) watch.Interface {
	t.Helper()
	w, err := store.Watch(t.Context(), secrets, everything)
	if err != nil {
		t.Fatal(err)
	}
	if e := <-w.ResultChan(); e.Type != watch.Added {
		t.Fatalf("want the secret, got %v", e)
	}
	return w
}

func everythingIsUnavailable(t *testing.T, store storage.Interface) {
	t.Helper()
	ctx := t.Context()
	_, watchErr := store.Watch(ctx, secrets, everything)
	for name, err := range map[string]error{
		"get":      store.Get(ctx, secretKey, storage.GetOptions{}, &hsmapi.HSMSecret{}),
		"no such":  store.Get(ctx, secretKey+"2", storage.GetOptions{IgnoreNotFound: true}, &hsmapi.HSMSecret{}),
		"list":     store.GetList(ctx, secrets, everything, &hsmapi.HSMSecretList{}),
		"metadata": store.GetList(records.WithoutData(ctx), secrets, everything, &hsmapi.HSMSecretList{}),
		"create":   store.Create(ctx, secretKey+"2", newSecret(), nil, 0),
		"delete": store.Delete(ctx, secretKey, &hsmapi.HSMSecret{}, nil, storage.ValidateAllObjectFunc, nil,
			storage.DeleteOptions{}),
		"watch": watchErr,
	} {
		if !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s: want 503, got %v", name, err)
		}
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
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
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
