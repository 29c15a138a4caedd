// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

// TestPool: an HSMDevice has an HSMPool in its own namespace, which comes back when it
// is deleted, and goes when the HSMDevice does.
func TestPool(t *testing.T) {
	namespace := newNamespace(t)
	devices, pools := secrets.HsmV1alpha1().HSMDevices(namespace), secrets.HsmV1alpha1().HSMPools(namespace)
	_, err := devices.Create(t.Context(), &v1alpha1.HSMDevice{
		ObjectMeta: metav1.ObjectMeta{Name: "pico"},
		Spec:       v1alpha1.HSMDeviceSpec{DeviceType: v1alpha1.DeviceTypePicoHSM, Discovery: &v1alpha1.Discovery{AutoDiscovery: true}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	appears := func(after *v1alpha1.HSMPool) (pool *v1alpha1.HSMPool) {
		t.Helper()
		await.NoError(t, time.Minute, func(context.Context) error {
			var err error
			pool, err = pools.Get(t.Context(), "pico", metav1.GetOptions{})
			if err == nil && (pool.Status.Phase == "" || after != nil && pool.UID == after.UID) {
				err = fmt.Errorf("the pool is %+v", pool)
			}
			return err
		})
		return pool
	}
	first := appears(nil)
	if err := pools.Delete(t.Context(), "pico", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	appears(first)
	if err := devices.Delete(t.Context(), "pico", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, time.Minute, func(context.Context) error { return gone(pools.Get(t.Context(), "pico", metav1.GetOptions{})) })
}
