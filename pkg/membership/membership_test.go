// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

var created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pool(namespace, name string, age time.Duration, refs ...string) *v1alpha1.HSMPool {
	return &v1alpha1.HSMPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(created.Add(-age))},
		Spec:       v1alpha1.HSMPoolSpec{HSMDeviceRefs: refs},
	}
}

func TestPoolOf(t *testing.T) {
	t.Parallel()
	deleted := pool("hsm-system", "deleted", time.Hour, "pico")
	deleted.DeletionTimestamp = &metav1.Time{Time: created}
	made := pool("hsm-system", "pico", time.Hour, "pico")
	for name, test := range map[string]struct {
		pools []*v1alpha1.HSMPool
		want  string
	}{
		"no pool":                          {nil, ""},
		"the one made for it":              {[]*v1alpha1.HSMPool{made}, "pico"},
		"of its name, without listing it":  {[]*v1alpha1.HSMPool{pool("hsm-system", "pico", 0)}, ""},
		"of another namespace":             {[]*v1alpha1.HSMPool{pool("team", "all", 0, "pico")}, ""},
		"of other HSMDevices":              {[]*v1alpha1.HSMPool{pool("hsm-system", "all", 0, "other")}, ""},
		"by hand before the one made":      {[]*v1alpha1.HSMPool{made, pool("hsm-system", "z", 0, "other", "pico")}, "z"},
		"by hand, in the other order":      {[]*v1alpha1.HSMPool{pool("hsm-system", "z", 0, "other", "pico"), made}, "z"},
		"the older of two by hand":         {[]*v1alpha1.HSMPool{pool("hsm-system", "a", 0, "pico"), pool("hsm-system", "b", time.Second, "pico")}, "b"},
		"the first of two of the same age": {[]*v1alpha1.HSMPool{pool("hsm-system", "b", 0, "pico"), pool("hsm-system", "a", 0, "pico")}, "a"},
		"one that is being deleted":        {[]*v1alpha1.HSMPool{deleted, made}, "pico"},
	} {
		got := PoolOf(test.pools, types.NamespacedName{Namespace: "hsm-system", Name: "pico"})
		if (got == nil) != (test.want == "") || got != nil && got.Name != test.want {
			t.Errorf("%s: got %v, want %q", name, got, test.want)
		}
	}
}

func TestGracePeriod(t *testing.T) {
	t.Parallel()
	said := pool("hsm-system", "pico", 0)
	said.Spec.GracePeriod = &metav1.Duration{Duration: time.Hour}
	for name, test := range map[string]struct {
		pool *v1alpha1.HSMPool
		want time.Duration
	}{
		"no pool":               {nil, DefaultGracePeriod},
		"a pool that says none": {pool("hsm-system", "pico", 0), DefaultGracePeriod},
		"a pool that says one":  {said, time.Hour},
	} {
		if got := GracePeriod(test.pool); got != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

// TestDefaultGracePeriod compares the constant with what the API server fills in.
func TestDefaultGracePeriod(t *testing.T) {
	t.Parallel()
	var pool v1alpha1.HSMPool
	v1alpha1.SetObjectDefaults_HSMPool(&pool)
	if got := pool.Spec.GracePeriod.Duration; got != DefaultGracePeriod {
		t.Errorf("the API's default is %s, DefaultGracePeriod is %s", got, DefaultGracePeriod)
	}
}

func TestServedByAgents(t *testing.T) {
	t.Parallel()
	served := func() *v1alpha1.HSMDevice {
		return &v1alpha1.HSMDevice{Spec: v1alpha1.HSMDeviceSpec{PKCS11: &v1alpha1.PKCS11{}}}
	}
	deleted := served()
	deleted.DeletionTimestamp = &metav1.Time{Time: created}
	for name, test := range map[string]struct {
		device *v1alpha1.HSMDevice
		want   bool
	}{
		"gone":                {nil, false},
		"without spec.pkcs11": {&v1alpha1.HSMDevice{}, false},
		"with spec.pkcs11":    {served(), true},
		"being deleted":       {deleted, false},
	} {
		if got := ServedByAgents(test.device); got != test.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}
