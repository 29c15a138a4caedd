// SPDX-License-Identifier: Apache-2.0

package machinery

import (
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
)

// TestResourceQuota bounds the number of HSMSecrets of a namespace:
// kube-controller-manager counts them, and our server refuses one too many, also
// when many come at once. What was deleted makes room.
func TestResourceQuota(t *testing.T) {
	const count, limit = corev1.ResourceName("count/hsmsecrets.hsm.j5t.io"), 2
	ns := namespace(t)
	client := secrets(t, hsm.Admin, ns)
	// The controller looks for new kinds every 30 s, and looks at a quota anew
	// every five minutes.
	eventually(t, 90*time.Second, func() error {
		if len(linesWith(readFile(t, ourAuditLog), `"verb":"watch"`, "resourcequota-controller", `"resource":"hsmsecrets"`)) == 0 {
			return errors.New("the controller does not watch HSMSecrets")
		}
		return nil
	})
	_, err := host.CoreV1().ResourceQuotas(ns).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "secrets"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{count: *resource.NewQuantity(limit, resource.DecimalSI)}},
	}, metav1.CreateOptions{})
	must(t, err)
	used := func(want int64) {
		t.Helper()
		eventually(t, 30*time.Second, func() error {
			quota, err := host.CoreV1().ResourceQuotas(ns).Get(t.Context(), "secrets", metav1.GetOptions{})
			if got, ok := quota.Status.Used[count]; err != nil || !ok || got.Value() != want {
				return fmt.Errorf("%s is used, want %d: %v", got.String(), want, err)
			}
			return nil
		})
	}
	used(0)

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
	used(limit)
	must(t, client.Delete(t.Context(), created[0], metav1.DeleteOptions{}))
	used(1)
	_, err = client.Create(t.Context(), secret("after", "one"), metav1.CreateOptions{})
	must(t, err)
}
