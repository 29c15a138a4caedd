// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

const canary = "canary-value"

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return scheme
}

// request is the context of a request of user alice in namespace app.
func request(subresource string) context.Context {
	ctx := genericapirequest.WithNamespace(context.Background(), "app")
	ctx = genericapirequest.WithUser(ctx, &user.DefaultInfo{Name: "alice"})
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		IsResourceRequest: true,
		APIGroup:          v1alpha1.GroupName,
		APIVersion:        "v1alpha1",
		Namespace:         "app",
		Resource:          "hsmsecrets",
		Subresource:       subresource,
	})
}

// sent is what the handlers make of a body that a client sends.
func sent(t *testing.T, change func(*v1alpha1.HSMSecret)) *hsm.HSMSecret {
	t.Helper()
	external := &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "app"},
		Data:       map[string][]byte{"password": []byte(canary)},
	}
	if change != nil {
		change(external)
	}
	scheme := newScheme()
	scheme.Default(external)
	var internal hsm.HSMSecret
	if err := scheme.Convert(external, &internal, nil); err != nil {
		t.Fatal(err)
	}
	return &internal
}

// stored is an object after its creation.
func stored(t *testing.T, change func(*v1alpha1.HSMSecret)) *hsm.HSMSecret {
	t.Helper()
	secret := sent(t, change)
	rest.FillObjectMetaSystemFields(secret)
	if err := rest.BeforeCreate(newStrategy(newScheme()), request(""), secret); err != nil {
		t.Fatal(err)
	}
	secret.ResourceVersion = "7"
	return secret
}

func update(secret, old *hsm.HSMSecret) error {
	if secret.ResourceVersion == "" {
		secret.ResourceVersion = old.ResourceVersion
	}
	return rest.BeforeUpdate(newStrategy(newScheme()), request(""), secret, old)
}

func updateStatus(secret, old *hsm.HSMSecret) error {
	return rest.BeforeUpdate(statusStrategy{newStrategy(newScheme())}, request("status"), secret, old)
}

func TestCreate(t *testing.T) {
	t.Parallel()
	secret := stored(t, func(s *v1alpha1.HSMSecret) {
		s.Generation = 9
		s.StringData = map[string]string{"user": "me"}
		s.Status.SyncStatus = v1alpha1.SyncStatusInSync
	})
	if secret.Path() != "secrets/app/db" || secret.SecretName() != "db" || secret.Status.HSMPath != "secrets/app/db" {
		t.Errorf("defaults are hsmPath %q and secretName %q, want secrets/app/db and db", secret.Path(), secret.SecretName())
	}
	if secret.Spec.HSMPath != "" || secret.Spec.SecretName != "" {
		t.Errorf("the defaults %q and %q are in the spec: a copy would have them too", secret.Spec.HSMPath, secret.Spec.SecretName)
	}
	if secret.Generation != 1 {
		t.Errorf("generation is %d, want 1", secret.Generation)
	}
	if !equality.Semantic.DeepEqual(secret.Status, hsm.HSMSecretStatus{HSMPath: "secrets/app/db"}) {
		t.Errorf("the client's status is taken: %+v", secret.Status)
	}
	if string(secret.Data["user"]) != "me" || string(secret.Data["password"]) != canary {
		t.Errorf("data is %d keys, want stringData and data", len(secret.Data))
	}

	given := stored(t, func(s *v1alpha1.HSMSecret) { s.Spec.HSMPath, s.Spec.SecretName = "secrets/app/other", "other" })
	if given.Spec.HSMPath != "secrets/app/other" || given.Spec.SecretName != "other" {
		t.Errorf("given hsmPath and secretName become %q and %q", given.Spec.HSMPath, given.Spec.SecretName)
	}
}

func TestCreateIsValidated(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*v1alpha1.HSMSecret)
		field  string
	}{
		"by a function": {func(s *v1alpha1.HSMSecret) { s.Spec.HSMPath = "../db" }, "spec.hsmPath"},
		"by a tag":      {func(s *v1alpha1.HSMSecret) { s.Spec.SyncInterval = 1 }, "spec.syncInterval"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := sent(t, test.change)
			rest.FillObjectMetaSystemFields(secret)
			err := rest.BeforeCreate(newStrategy(newScheme()), request(""), secret)
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.field) {
				t.Errorf("error is %v, want 422 Invalid of %s", err, test.field)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		old, change func(*v1alpha1.HSMSecret)
		// generation after the update of generation 1; 0 if it is refused.
		generation int64
		field      string
	}{
		"nothing":                  {generation: 1},
		"label":                    {change: func(s *v1alpha1.HSMSecret) { s.Labels = map[string]string{"a": "b"} }, generation: 1},
		"status":                   {change: func(s *v1alpha1.HSMSecret) { s.Status.SyncStatus = v1alpha1.SyncStatusError }, generation: 1},
		"empty for no data":        {old: func(s *v1alpha1.HSMSecret) { s.Data = nil }, change: func(s *v1alpha1.HSMSecret) { s.Data = map[string][]byte{} }, generation: 1},
		"client generation":        {change: func(s *v1alpha1.HSMSecret) { s.Generation = 9 }, generation: 1},
		"same stringData":          {change: func(s *v1alpha1.HSMSecret) { s.StringData = map[string]string{"password": canary} }, generation: 1},
		"data":                     {change: func(s *v1alpha1.HSMSecret) { s.Data["password"] = []byte("new") }, generation: 2},
		"stringData":               {change: func(s *v1alpha1.HSMSecret) { s.StringData = map[string]string{"password": "new"} }, generation: 2},
		"spec":                     {change: func(s *v1alpha1.HSMSecret) { s.Spec.SyncInterval = 60 }, generation: 2},
		"autoSync false":           {change: func(s *v1alpha1.HSMSecret) { s.Spec.AutoSync = new(false) }, generation: 2},
		"immutable":                {change: func(s *v1alpha1.HSMSecret) { s.Immutable = new(true) }, generation: 2},
		"hsmPath":                  {change: func(s *v1alpha1.HSMSecret) { s.Spec.HSMPath = "secrets/app/other" }, field: "spec.hsmPath"},
		"secretType":               {change: func(s *v1alpha1.HSMSecret) { s.Spec.SecretType = "example.com/other" }, field: "spec.secretType"},
		"data of immutable":        {old: func(s *v1alpha1.HSMSecret) { s.Immutable = new(true) }, change: func(s *v1alpha1.HSMSecret) { s.Immutable, s.Data = new(true), nil }, field: "data"},
		"unset immutable":          {old: func(s *v1alpha1.HSMSecret) { s.Immutable = new(true) }, field: "immutable"},
		"omitted hsmPath":          {old: func(s *v1alpha1.HSMSecret) { s.Spec.HSMPath = "secrets/app/other" }, generation: 1},
		"default hsmPath set":      {change: func(s *v1alpha1.HSMSecret) { s.Spec.HSMPath = "secrets/app/db" }, generation: 1},
		"default hsmPath left out": {old: func(s *v1alpha1.HSMSecret) { s.Spec.HSMPath = "secrets/app/db" }, generation: 1},
		"default secretName set":   {change: func(s *v1alpha1.HSMSecret) { s.Spec.SecretName = "db" }, generation: 1},
		"other secretName":         {change: func(s *v1alpha1.HSMSecret) { s.Spec.SecretName = "other" }, generation: 2},
		"omitted secretName":       {old: func(s *v1alpha1.HSMSecret) { s.Spec.SecretName = "other" }, generation: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old := stored(t, test.old)
			secret := sent(t, test.change)
			err := update(secret, old)
			if test.field != "" {
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.field) {
					t.Errorf("error is %v, want 422 Invalid of %s", err, test.field)
				}
				if err != nil && strings.Contains(err.Error(), canary) {
					t.Errorf("the error shows a value: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if secret.Generation != test.generation {
				t.Errorf("generation is %d, want %d", secret.Generation, test.generation)
			}
			if !equality.Semantic.DeepEqual(secret.Status, old.Status) {
				t.Errorf("the client's status is taken: %+v", secret.Status)
			}
			if secret.Path() != old.Path() || secret.Status.HSMPath != old.Path() {
				t.Errorf("hsmPath changed to %q", secret.Path())
			}
		})
	}
}

// A manifest sent again, without what the server has filled in, changes nothing:
// storage then writes nothing.
func TestRepeatedWriteIsNoOp(t *testing.T) {
	t.Parallel()
	manifest := func(s *v1alpha1.HSMSecret) {
		s.StringData = map[string]string{"user": "me"}
		s.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: `{"data":{"password":"` + canary + `"}}`}
	}
	old := stored(t, manifest)
	secret := sent(t, manifest)
	if err := update(secret, old); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(secret, old) {
		t.Errorf("the object changed from %+v to %+v", old, secret)
	}
	if strings.Contains(secret.Annotations[corev1.LastAppliedConfigAnnotation], canary) {
		t.Error("last-applied-configuration holds a value")
	}
}

func TestStatusUpdate(t *testing.T) {
	t.Parallel()
	old := stored(t, nil)
	old.Labels = map[string]string{"a": "b"}
	old.Status = hsm.HSMSecretStatus{
		SyncStatus:       hsm.SyncStatusPending,
		DataVersion:      "1",
		PrimaryDevice:    "A",
		DeviceSyncStatus: []hsm.DeviceSyncStatus{{SerialNumber: "A"}},
	}
	managed := []metav1.ManagedFieldsEntry{{Manager: "controller", Operation: metav1.ManagedFieldsOperationUpdate, FieldsType: "FieldsV1"}}
	secret := old.DeepCopy()
	secret.Labels, secret.Data, secret.Immutable = nil, nil, new(true)
	secret.Spec.SyncInterval = 60
	secret.Finalizers = []string{"example.com/a"}
	secret.ManagedFields = managed
	secret.Status = hsm.HSMSecretStatus{SyncStatus: hsm.SyncStatusInSync, DataVersion: "2", PrimaryDevice: "B"}
	if err := updateStatus(secret, old); err != nil {
		t.Fatal(err)
	}

	want := old.DeepCopy()
	want.ManagedFields = managed
	want.Status.SyncStatus = hsm.SyncStatusInSync
	if !equality.Semantic.DeepEqual(secret, want) {
		t.Errorf("the object is %+v, want %+v", secret, want)
	}

	secret.Status.SyncStatus = "Fine"
	if err := updateStatus(secret, old); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "status.syncStatus") {
		t.Errorf("error is %v, want 422 Invalid of status.syncStatus", err)
	}
}

func TestResetFields(t *testing.T) {
	t.Parallel()
	version := fieldpath.APIVersion("hsm.j5t.io/v1alpha1")
	main := newStrategy(newScheme()).GetResetFields()[version]
	status := statusStrategy{}.GetResetFields()[version]
	for _, test := range []struct {
		path         fieldpath.Path
		main, status bool
	}{
		{fieldpath.MakePathOrDie("status"), true, false},
		{fieldpath.MakePathOrDie("status", "syncStatus"), false, false},
		{fieldpath.MakePathOrDie("status", "dataVersion"), false, true},
		{fieldpath.MakePathOrDie("spec"), false, true},
		{fieldpath.MakePathOrDie("data"), false, true},
		{fieldpath.MakePathOrDie("metadata", "labels"), false, true},
	} {
		if main.Has(test.path) != test.main || status.Has(test.path) != test.status {
			t.Errorf("%s is reset by a write of the resource: %t, of the status: %t; want %t, %t",
				test.path, main.Has(test.path), status.Has(test.path), test.main, test.status)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	s := newStrategy(newScheme())
	plain := stored(t, nil)
	applied := stored(t, func(s *v1alpha1.HSMSecret) {
		s.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: `{"data":{"a":"` + canary + `"}}`}
	})
	pair := stored(t, func(s *v1alpha1.HSMSecret) {
		s.Spec.SecretType = corev1.SecretTypeTLS
		s.Data = map[string][]byte{"tls.crt": []byte(canary), "tls.key": []byte(canary)}
	})
	for name, test := range map[string]struct {
		warnings []string
		want     string
	}{
		"none":                     {s.WarningsOnCreate(request(""), plain), ""},
		"kubectl apply":            {s.WarningsOnCreate(request(""), applied), "--server-side"},
		"kubectl apply of an edit": {s.WarningsOnUpdate(request(""), applied, plain), "--server-side"},
		"told before":              {s.WarningsOnUpdate(request(""), applied, applied), ""},
		"key pair":                 {s.WarningsOnCreate(request(""), pair), "PEM"},
		"status":                   {statusStrategy{s}.WarningsOnUpdate(request("status"), pair, plain), ""},
	} {
		all := strings.Join(test.warnings, "\n")
		if (all == "") != (test.want == "") || !strings.Contains(all, test.want) {
			t.Errorf("%s: warnings are %q, want %q", name, all, test.want)
		}
		if strings.Contains(all, canary) {
			t.Errorf("%s: a warning shows a value: %q", name, all)
		}
	}
}

func TestGetAttrs(t *testing.T) {
	t.Parallel()
	secret := stored(t, func(s *v1alpha1.HSMSecret) { s.Labels = map[string]string{"a": "b"} })
	labels, fields, err := GetAttrs(secret)
	if err != nil {
		t.Fatal(err)
	}
	if labels["a"] != "b" {
		t.Errorf("labels are %v", labels)
	}
	for name, want := range map[string]string{
		"metadata.name": "db", "metadata.namespace": "app",
		hsm.HSMPathField: "secrets/app/db", hsm.SecretNameField: "db", hsm.SecretTypeField: "Opaque",
	} {
		if fields[name] != want {
			t.Errorf("field %s is %q, want %q", name, fields[name], want)
		}
	}
	if _, _, err := GetAttrs(&hsm.HSMPool{}); err == nil {
		t.Error("an HSMPool has the attributes of an HSMSecret")
	}
}
