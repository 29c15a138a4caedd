// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/test/framework/await"
)

// TestResourceQuota bounds the number of HSMSecrets of a namespace:
// kube-controller-manager counts them, and our server refuses one too many, also
// when many come at once. What was deleted makes room.
func TestResourceQuota(t *testing.T) {
	const count, limit = corev1.ResourceName("count/hsmsecrets.hsm.j5t.io"), 2
	ns := namespace(t)
	client := secrets(t, hsm.Admin, ns)
	quota, err := host.CoreV1().ResourceQuotas(ns).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "secrets"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{count: *resource.NewQuantity(limit, resource.DecimalSI)}},
	}, metav1.CreateOptions{})
	must(t, err)
	quotas := host.CoreV1().ResourceQuotas(ns)
	used := func(want int64) error {
		var err error
		if quota, err = quotas.Get(t.Context(), quota.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if got, ok := quota.Status.Used[count]; !ok || got.Value() != want {
			return fmt.Errorf("%v is used, want %s of %d", quota.Status.Used, count, want)
		}
		return nil
	}
	// The controller learns of new kinds every 30 s. It counts anew when the spec
	// changes, or when it sees a deletion, which it misses if its watch broke
	// because another test has killed the agent.
	changes := int64(100)
	counted := func(want int64) {
		t.Helper()
		await.NoError(t, 90*time.Second, func(context.Context) error {
			err := used(want)
			if err != nil {
				changes++
				quota.Spec.Hard["count/configmaps"] = *resource.NewQuantity(changes, resource.DecimalSI)
				_, conflict := quotas.Update(t.Context(), quota, metav1.UpdateOptions{})
				err = errors.Join(err, conflict)
			}
			return err
		})
	}
	counted(0)

	var wg sync.WaitGroup
	var mu sync.Mutex
	var created []string
	for i := range 5 {
		wg.Go(func() {
			made, err := client.Create(t.Context(), secret(fmt.Sprintf("burst-%d", i), "one"), metav1.CreateOptions{})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				created = append(created, made.Name)
			case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: secrets"):
				t.Errorf("want Forbidden by the quota, got %v", err)
			}
		})
	}
	wg.Wait()
	if len(created) != limit {
		t.Fatalf("%v created within a quota of %d", created, limit)
	}
	must(t, used(limit))
	must(t, client.Delete(t.Context(), created[0], metav1.DeleteOptions{}))
	counted(1)
	_, err = client.Create(t.Context(), secret("after", "one"), metav1.CreateOptions{})
	must(t, err)
}
