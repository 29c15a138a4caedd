// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// memoryStorage holds at most one object. The tests write with dry run, for which
// nothing but Get is needed.
type memoryStorage struct {
	storage.Interface
	object *hsm.HSMSecret
}

func (memoryStorage) Versioner() storage.Versioner { return storage.APIObjectVersioner{} }
func (memoryStorage) ReadinessCheck() error        { return nil }

func (m memoryStorage) Get(_ context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	switch {
	case m.object != nil:
		m.object.DeepCopyInto(out.(*hsm.HSMSecret))
		return nil
	case opts.IgnoreNotFound:
		return runtime.SetZeroValue(out)
	default:
		return storage.NewKeyNotFoundError(key, 0)
	}
}

// GetRESTOptions makes memoryStorage the storage of every resource.
func (m memoryStorage) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	codec := serializer.NewCodecFactory(newScheme()).LegacyCodec(v1alpha1.SchemeGroupVersion)
	return generic.RESTOptions{
		StorageConfig:  &storagebackend.ConfigForResource{GroupResource: resource, Config: storagebackend.Config{Codec: codec}},
		ResourcePrefix: resource.String(),
		Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object, storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return m, func() {}, nil
		},
	}, nil
}

// claims allows the claim of one path to alice, and all values; asking for it may
// also fail.
type claims struct {
	path string
	err  error
}

func (c claims) authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if c.err != nil {
		return authorizer.DecisionNoOpinion, "", c.err
	}
	if a.GetVerb() == "get" && a.GetSubresource() == "data" {
		return authorizer.DecisionAllow, "", nil
	}
	if a.GetUser().GetName() == "alice" && a.GetVerb() == "claim" && a.GetAPIGroup() == "hsm.j5t.io" && a.GetAPIVersion() == "v1alpha1" &&
		a.GetResource() == "hsmsecrets" && a.GetSubresource() == "" && a.GetNamespace() == "app" && a.GetName() == c.path && a.IsResourceRequest() {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "no rule", nil
}

func newTestStorage(t *testing.T, object *hsm.HSMSecret, claims claims) (*REST, *StatusREST) {
	t.Helper()
	secrets, status, err := NewStorage(newScheme(), memoryStorage{object: object}, authorizer.AuthorizerFunc(claims.authorize))
	if err != nil {
		t.Fatal(err)
	}
	return secrets, status
}

// The ways to create an object, as the handlers use them.
var creates = map[string]func(*REST, *hsm.HSMSecret, rest.ValidateObjectFunc) (runtime.Object, error){
	"create": func(r *REST, secret *hsm.HSMSecret, admit rest.ValidateObjectFunc) (runtime.Object, error) {
		return r.Create(request(""), secret, admit, &metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	},
	"apply": func(r *REST, secret *hsm.HSMSecret, admit rest.ValidateObjectFunc) (runtime.Object, error) {
		obj, _, err := r.Update(request(""), secret.Name, rest.DefaultUpdatedObjectInfo(secret), admit, nil, true,
			&metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		return obj, err
	},
}

func TestClaim(t *testing.T) {
	t.Parallel()
	for way, create := range creates {
		for name, test := range map[string]struct {
			path   string
			claims claims
			wants  func(error) bool
		}{
			"own path by default":       {"", claims{}, nil},
			"own path":                  {"secrets/app/deep/er", claims{}, nil},
			"claimed path":              {"shared/db", claims{path: "shared/db"}, nil},
			"other path":                {"shared/db", claims{path: "shared/other"}, apierrors.IsForbidden},
			"path of another namespace": {"secrets/other/db", claims{}, apierrors.IsForbidden},
			"path of a longer name":     {"secrets/apple/db", claims{}, apierrors.IsForbidden},
			"path of a shorter name":    {"secrets/app", claims{}, apierrors.IsForbidden},
			"no decision":               {"shared/db", claims{err: errors.New("cannot ask")}, apierrors.IsInternalError},
			"invalid path":              {"../db", claims{path: "../db"}, apierrors.IsInvalid},
		} {
			t.Run(way+" with "+name, func(t *testing.T) {
				t.Parallel()
				secrets, _ := newTestStorage(t, nil, test.claims)
				admitted := false
				obj, err := create(secrets, sent(t, func(s *v1alpha1.HSMSecret) { s.Spec.HSMPath = test.path }),
					func(context.Context, runtime.Object) error { admitted = true; return nil })
				if test.wants == nil {
					if err != nil {
						t.Fatal(err)
					}
					if path := obj.(*hsm.HSMSecret).Spec.HSMPath; test.path != "" && path != test.path {
						t.Errorf("hsmPath is %q, want %q", path, test.path)
					}
				} else if !test.wants(err) {
					t.Errorf("error is %v", err)
				}
				if admitted != (err == nil) {
					t.Errorf("admission was asked: %t, with error %v", admitted, err)
				}
				if apierrors.IsForbidden(err) {
					for _, part := range []string{"spec.hsmPath", test.path, "secrets/app/", "claim"} {
						if !strings.Contains(err.Error(), part) {
							t.Errorf("the error does not name %s: %v", part, err)
						}
					}
				}
			})
		}
	}
}

// Who may update the object needs no claim of the path that it has.
func TestUpdateNeedsNoClaim(t *testing.T) {
	t.Parallel()
	old := stored(t, func(s *v1alpha1.HSMSecret) { s.Spec.HSMPath = "shared/db" })
	secrets, _ := newTestStorage(t, old, claims{})
	secret := sent(t, func(s *v1alpha1.HSMSecret) { s.Labels = map[string]string{"a": "b"} })
	obj, created, err := secrets.Update(request(""), "db", rest.DefaultUpdatedObjectInfo(secret), nil, nil, false,
		&metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || created {
		t.Fatalf("created %t, error %v", created, err)
	}
	if path := obj.(*hsm.HSMSecret).Spec.HSMPath; path != "shared/db" {
		t.Errorf("hsmPath is %q, want shared/db", path)
	}
}

func TestGenerateName(t *testing.T) {
	t.Parallel()
	secrets, _ := newTestStorage(t, nil, claims{})
	obj, err := creates["create"](secrets, sent(t, func(s *v1alpha1.HSMSecret) { s.Name, s.GenerateName = "", "db-" }), nil)
	if err != nil {
		t.Fatal(err)
	}
	secret := obj.(*hsm.HSMSecret)
	if !strings.HasPrefix(secret.Name, "db-") || secret.Path() != "secrets/app/"+secret.Name || secret.SecretName() != secret.Name {
		t.Errorf("name %q has hsmPath %q and secretName %q", secret.Name, secret.Path(), secret.SecretName())
	}
}

func TestPutDoesNotCreate(t *testing.T) {
	t.Parallel()
	secrets, statuses := newTestStorage(t, nil, claims{})
	info := rest.DefaultUpdatedObjectInfo(sent(t, nil))
	options := &metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}
	if _, _, err := secrets.Update(request(""), "db", info, nil, nil, false, options); !apierrors.IsNotFound(err) {
		t.Errorf("error is %v, want 404", err)
	}
	// Not even by server-side apply.
	if _, _, err := statuses.Update(request("status"), "db", info, nil, nil, true, options); !apierrors.IsNotFound(err) {
		t.Errorf("error of the status is %v, want 404", err)
	}
}

func TestUpdateWithoutResourceVersion(t *testing.T) {
	t.Parallel()
	secrets, _ := newTestStorage(t, stored(t, nil), claims{})
	options := &metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}
	if _, _, err := secrets.Update(request(""), "db", rest.DefaultUpdatedObjectInfo(sent(t, nil)), nil, nil, false, options); err != nil {
		t.Errorf("an unconditional update fails: %v", err)
	}
	stale := sent(t, func(s *v1alpha1.HSMSecret) { s.ResourceVersion = "6" })
	if _, _, err := secrets.Update(request(""), "db", rest.DefaultUpdatedObjectInfo(stale), nil, nil, false, options); !apierrors.IsConflict(err) {
		t.Errorf("error of an update with an old resourceVersion is %v, want 409", err)
	}
}

func TestStatusSubresource(t *testing.T) {
	t.Parallel()
	_, statuses := newTestStorage(t, stored(t, nil), claims{})
	secret := sent(t, func(s *v1alpha1.HSMSecret) {
		s.Spec.SyncInterval = 60
		s.Status.SyncStatus = v1alpha1.SyncStatusInSync
	})
	obj, _, err := statuses.Update(request("status"), "db", rest.DefaultUpdatedObjectInfo(secret), nil, nil, false,
		&metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		t.Fatal(err)
	}
	got := obj.(*hsm.HSMSecret)
	if got.Status.SyncStatus != hsm.SyncStatusInSync || got.Spec.SyncInterval != 300 || got.Generation != 1 {
		t.Errorf("syncStatus is %s, syncInterval %d, generation %d; want InSync, 300, 1", got.Status.SyncStatus, got.Spec.SyncInterval, got.Generation)
	}
	if read, err := statuses.Get(request("status"), "db", &metav1.GetOptions{}); err != nil || read.(*hsm.HSMSecret).Name != "db" {
		t.Errorf("reading the status gives %v, %v", read, err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	secrets, statuses := newTestStorage(t, nil, claims{})
	if !slices.Equal(secrets.ShortNames(), []string{"hsmsec"}) || secrets.GetSingularName() != "hsmsecret" || !secrets.NamespaceScoped() {
		t.Errorf("names are %v and %s, namespaced %t", secrets.ShortNames(), secrets.GetSingularName(), secrets.NamespaceScoped())
	}
	if _, ok := rest.Storage(secrets).(rest.CategoriesProvider); ok {
		t.Error("hsmsecrets is in a category: kubectl get all would show it")
	}
	if _, ok := statuses.New().(*hsm.HSMSecret); !ok {
		t.Errorf("the status is of a %T", statuses.New())
	}
}
