// SPDX-License-Identifier: Apache-2.0

package discovery_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/allocatable"
)

// lastFound keeps what discovery told last those who give access to tokens.
type lastFound struct {
	found atomic.Pointer[allocatable.Scan]
}

func (l *lastFound) Run(ctx context.Context) { <-ctx.Done() }

func (l *lastFound) Update(_ context.Context, found allocatable.Scan) { l.found.Store(&found) }

// TestGracePeriodOfDeviceAccess: pods lose access to a token after the gracePeriod of the
// HSMPool that its HSMDevice belongs to, whoever made that pool.
func TestGracePeriodOfDeviceAccess(t *testing.T) {
	t.Parallel()
	pool := func(namespace, name string, grace time.Duration) runtime.Object {
		return &v1alpha1.HSMPool{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       v1alpha1.HSMPoolSpec{HSMDeviceRefs: []string{"a"}, GracePeriod: &metav1.Duration{Duration: grace}},
		}
	}
	made := pool("hsm-system", "a", time.Minute)
	for name, test := range map[string]struct {
		pools []runtime.Object
		want  time.Duration
	}{
		"no pool":                     {nil, 5 * time.Minute},
		"the pool of its name":        {[]runtime.Object{made}, time.Minute},
		"a pool made by hand":         {[]runtime.Object{pool("hsm-system", "by-hand", time.Hour)}, time.Hour},
		"both":                        {[]runtime.Object{made, pool("hsm-system", "by-hand", time.Hour)}, time.Hour},
		"a pool of another namespace": {[]runtime.Object{made, pool("team", "by-hand", time.Hour)}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var access lastFound
				r := newRig(t, nil, func(r *rig) { r.access = &access }, append(test.pools, autoPico)...)
				defer r.stop()
				r.after(time.Minute)
				hsmDevice := access.found.Load().HSMDevices[types.NamespacedName{Namespace: "hsm-system", Name: "a"}]
				if hsmDevice.GracePeriod != test.want {
					t.Errorf("access is taken away after %s, want %s", hsmDevice.GracePeriod, test.want)
				}
			})
		})
	}
}
