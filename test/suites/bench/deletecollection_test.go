// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

// collection is how many objects one request deletes, and rounds how often: the
// median counts.
const (
	collection = 300
	rounds     = 5
)

var (
	crds  = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	equal = schema.GroupVersionResource{Group: "bench.example.com", Version: "v1", Resource: "equals"}
)

// BenchmarkDeleteCollection deletes 300 HSMSecrets by one request, and 300 custom
// resources of the same content, which lie in etcd, in turn.
func BenchmarkDeleteCollection(b *testing.B) {
	config := rest.CopyConfig(hsm.Admin)
	config.QPS = -1
	anything, err := dynamic.NewForConfig(config)
	if err != nil {
		b.Fatal(err)
	}
	defineEqual(b, anything)
	b.Cleanup(func() { // The memory of the next one is measured.
		hsm.APIServer.Kill()
		if err := hsm.StartAPIServer(context.WithoutCancel(b.Context())); err != nil {
			b.Error(err)
		}
	})
	labels := map[string]string{"collection": "true"}
	selector := metav1.ListOptions{LabelSelector: "collection=true"}
	secrets, others := client.HsmV1alpha1().HSMSecrets(namespace), anything.Resource(equal).Namespace(namespace)
	fill := func() {
		var creates errgroup.Group
		creates.SetLimit(16)
		for i := range collection {
			meta := metav1.ObjectMeta{Name: fmt.Sprintf("collected-%03d", i), Labels: labels}
			creates.Go(func() error {
				_, err := secrets.Create(b.Context(), &v1alpha1.HSMSecret{ObjectMeta: meta, Data: map[string][]byte{"password": []byte("correct horse")}}, metav1.CreateOptions{})
				return err
			})
			creates.Go(func() error {
				_, err := others.Create(b.Context(), &unstructured.Unstructured{Object: map[string]any{
					"apiVersion": equal.GroupVersion().String(), "kind": "Equal",
					"metadata": map[string]any{"name": meta.Name, "labels": map[string]any{"collection": "true"}},
					"data":     map[string]any{"password": "Y29ycmVjdCBob3JzZQ=="},
				}}, metav1.CreateOptions{})
				return err
			})
		}
		if err := creates.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	timed := func(remove func(context.Context, metav1.DeleteOptions, metav1.ListOptions) error) time.Duration {
		began := time.Now()
		if err := remove(b.Context(), metav1.DeleteOptions{}, selector); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	for b.Loop() {
		var ours, theirs []time.Duration
		for range rounds {
			fill()
			ours = append(ours, timed(secrets.DeleteCollection))
			theirs = append(theirs, timed(others.DeleteCollection))
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		ratio := ours[rounds/2].Seconds() / theirs[rounds/2].Seconds()
		b.ReportMetric(float64(ours[rounds/2].Milliseconds()), "hsmsecrets-ms")
		b.ReportMetric(float64(theirs[rounds/2].Milliseconds()), "custom-resources-ms")
		b.ReportMetric(ratio, "ratio")
		fmt.Printf("figure: deletecollection-ratio-to-etcd %.2f\n", ratio)
	}
}

// defineEqual makes the kind of the custom resources, and waits until it is served.
func defineEqual(b *testing.B, anything dynamic.Interface) {
	b.Helper()
	_, err := anything.Resource(crds).Create(b.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": crds.GroupVersion().String(), "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": equal.GroupResource().String()},
		"spec": map[string]any{
			"group": equal.Group, "scope": "Namespaced",
			"names": map[string]any{"plural": equal.Resource, "singular": "equal", "kind": "Equal", "listKind": "EqualList"},
			"versions": []any{map[string]any{
				"name": equal.Version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := anything.Resource(crds).Delete(context.WithoutCancel(b.Context()), equal.GroupResource().String(), metav1.DeleteOptions{}); err != nil {
			b.Error(err)
		}
	})
	await.NoError(b, time.Minute, func(ctx context.Context) error {
		_, err := anything.Resource(equal).Namespace(namespace).List(ctx, metav1.ListOptions{})
		return err
	})
}
