// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/storage/records"
)

// What the API server itself does for a read: from the records of a backend to objects,
// and to the rows of kubectl get.

func BenchmarkGet(b *testing.B) {
	secrets, ctx := benchmarkStorage(b, 1)
	for b.Loop() {
		if _, err := secrets.Get(ctx, "db-0000", &metav1.GetOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList(b *testing.B) {
	secrets, ctx := benchmarkStorage(b, 1000)
	for b.Loop() {
		if _, err := secrets.List(ctx, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTable(b *testing.B) {
	secrets, ctx := benchmarkStorage(b, 1000)
	ctx = records.WithoutData(ctx)
	for b.Loop() {
		list, err := secrets.List(ctx, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := secrets.ConvertToTable(ctx, list, &metav1.TableOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkStorage holds HSMSecrets that kubectl has created and the controller has projected.
func benchmarkStorage(b *testing.B, objects int) (*REST, context.Context) {
	b.Helper()
	ctx := request("")
	secrets, status, err := NewStorage(newScheme(), newBackend(), authorizer.AuthorizerFunc(valueRights{all: true}.authorize))
	if err != nil {
		b.Fatal(err)
	}
	spec := newSecret().Spec
	spec.HSMPath, spec.SecretName = "", "" // The defaults.
	at := metav1.NewTime(time.Unix(1_700_000_000, 0))
	entry := func(manager, subresource, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "hsm.j5t.io/v1alpha1", Time: &at,
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields), Subresource: subresource,
		}
	}
	for i := range objects {
		obj, err := secrets.Create(ctx, &hsm.HSMSecret{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("db-%04d", i), Namespace: "app", Labels: map[string]string{"app": "db"},
				ManagedFields: []metav1.ManagedFieldsEntry{entry("kubectl-create", "",
					`{"f:data":{".":{},"f:password":{},"f:username":{}},"f:metadata":{"f:labels":{".":{},"f:app":{}}}}`)},
			},
			Spec: spec,
			Data: map[string][]byte{"username": []byte("app"), "password": []byte(value)},
		}, nil, &metav1.CreateOptions{})
		if err != nil {
			b.Fatal(err)
		}
		projected := obj.(*hsm.HSMSecret)
		projected.Status = hsm.HSMSecretStatus{SyncStatus: hsm.SyncStatusInSync, LastSyncTime: &at, ObservedGeneration: 1}
		projected.ManagedFields = append(projected.ManagedFields, entry("hsm-controller", statusSubresource,
			`{"f:status":{"f:lastSyncTime":{},"f:observedGeneration":{},"f:syncStatus":{}}}`))
		if _, _, err := status.Update(ctx, projected.Name, rest.DefaultUpdatedObjectInfo(projected), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	return secrets, ctx
}
