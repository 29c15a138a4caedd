// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"j5t.io/hsm/test/framework/await"
)

// TestReplicas runs two controllers, of which one acts. The other takes over
// when that one is killed, and at once when it ends in an orderly way.
func TestReplicas(t *testing.T) {
	namespace := newNamespace(t)
	projector.Kill()
	defer func() {
		if err := projector.restart(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	var replicas [2]*controller
	for i := range replicas {
		var err error
		replicas[i], err = startController(t.Context(), fmt.Sprintf("controller-replica-%d", i), "hsm-controller", "--leader-elect=true")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { replicas[i].stop() }()
	}
	acts := func(c *controller) bool {
		return c.proxy.count(func(c call) bool { return c.namespace == namespace && c.writes() }) > 0
	}
	synced := 0
	project := func(limit time.Duration) {
		t.Helper()
		synced++
		createNamed(t, namespace, fmt.Sprintf("db-%d", synced), "", "one")
		awaitSynced(t, namespace, synced, limit)
	}
	project(30 * time.Second)
	leader, other := 0, 1
	if acts(replicas[1]) {
		leader, other = 1, 0
	}
	if !acts(replicas[leader]) || acts(replicas[other]) {
		t.Fatalf("who acts? %t %t", acts(replicas[0]), acts(replicas[1]))
	}
	replicas[leader].Kill()
	// The lease of a leader that has died ends after 15 s.
	project(40 * time.Second)
	if !acts(replicas[other]) {
		t.Fatal("nobody acted")
	}
	if err := replicas[leader].restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit(10*time.Second))
	defer cancel()
	began := time.Now()
	if err := replicas[other].Stop(ctx); err != nil {
		t.Fatal(err)
	}
	project(10 * time.Second)
	t.Logf("taken over in %s", time.Since(began))
}

// TestUninstall takes the product away in the order of docs/projection.md, first
// the controller: nothing hangs, and what is not deleted stays.
func TestUninstall(t *testing.T) {
	namespace, deleted := newNamespace(t), newNamespace(t, "deleted")
	for _, namespace := range []string{namespace, deleted} {
		createMany(t, namespace, 3, 300)
		awaitSynced(t, namespace, 3, time.Minute)
	}
	for i := range 3 {
		name := fmt.Sprintf("db-%d", i)
		h, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		secret, err := core.CoreV1().Secrets(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Finalizers) > 0 || len(secret.Finalizers) > 0 {
			t.Errorf("finalizers %v and %v", h.Finalizers, secret.Finalizers)
		}
	}

	projector.Kill()
	defer func() {
		if err := projector.restart(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	// An HSMSecret, and a whole namespace, are deleted without a controller.
	if err := secrets.HsmV1alpha1().HSMSecrets(namespace).Delete(t.Context(), "db-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, time.Minute, func(context.Context) error {
		return gone(core.CoreV1().Secrets(namespace).Get(t.Context(), "db-0", metav1.GetOptions{}))
	})
	if err := core.CoreV1().Namespaces().Delete(t.Context(), deleted, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, 60*time.Second, func(context.Context) error {
		return gone(core.CoreV1().Namespaces().Get(t.Context(), deleted, metav1.GetOptions{}))
	})

	// Without the API, owners cannot be read: their Secrets stay.
	aggregator, err := clientset.NewForConfig(hsm.Admin)
	if err != nil {
		t.Fatal(err)
	}
	apiServices := aggregator.ApiregistrationV1().APIServices()
	apiService, err := apiServices.Get(t.Context(), "v1alpha1.hsm.j5t.io", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := apiServices.Delete(t.Context(), apiService.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		apiService.ResourceVersion, apiService.UID = "", ""
		if _, err := apiServices.Create(context.WithoutCancel(t.Context()), apiService, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		await.NoError(t, 60*time.Second, func(context.Context) error {
			_, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), "db-1", metav1.GetOptions{})
			return err
		})
		awaitSynced(t, namespace, 2, 60*time.Second)
	}()
	await.NoError(t, 60*time.Second, func(context.Context) error {
		_, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), "db-1", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the API is still there: %w", err)
		}
		return nil
	})
	// Even to a controller that still runs, the 404 says nothing of an HSMSecret.
	if err := projector.restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	lists := func() int {
		return projector.proxy.count(func(c call) bool { return c.resource == "hsmsecrets" && (c.method == "LIST" || c.method == "WATCH") })
	}
	before := lists()
	await.NoError(t, time.Minute, func(context.Context) error {
		if lists() < before+2 {
			return fmt.Errorf("the controller does not look")
		}
		return nil
	})
	projector.Kill()
	for _, name := range []string{"db-1", "db-2"} {
		if _, err := core.CoreV1().Secrets(namespace).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Errorf("Secret %s: %v", name, err)
		}
	}
	if err := core.CoreV1().Secrets(namespace).Delete(t.Context(), "db-2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// gone is nil if what was looked for is not there.
func gone[T any](_ T, err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("it is still there")
}
