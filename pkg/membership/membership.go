// SPDX-License-Identifier: Apache-2.0

// Package membership owns what discovery and the controllers must agree on about
// HSMDevices and HSMPools: which pool an HSMDevice belongs to, how long its tokens are
// kept after they were last seen, and whether agents serve them. It reads and writes
// nothing in the cluster.
package membership

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// DefaultGracePeriod is the API's default of spec.gracePeriod. It is also the grace
// period of an HSMDevice that belongs to no HSMPool.
const DefaultGracePeriod = 5 * time.Minute

// PoolOf returns the HSMPool that an HSMDevice belongs to, or nil. An HSMDevice belongs
// to one pool at most: to the oldest of those that a person has made to list it, and
// otherwise to the one of its own name, which the controller makes. A pool that is being
// deleted has no members.
func PoolOf(pools []*v1alpha1.HSMPool, device types.NamespacedName) *v1alpha1.HSMPool {
	var found *v1alpha1.HSMPool
	for _, pool := range pools {
		if pool.DeletionTimestamp != nil || pool.Namespace != device.Namespace || !slices.Contains(pool.Spec.HSMDeviceRefs, device.Name) {
			continue
		}
		if found == nil || precedes(pool, found, device.Name) {
			found = pool
		}
	}
	return found
}

// precedes reports whether pool a goes before pool b for an HSMDevice.
func precedes(a, b *v1alpha1.HSMPool, device string) bool {
	if aMade, bMade := a.Name == device, b.Name == device; aMade != bMade {
		return bMade
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
}

// GracePeriod returns how long the tokens of a pool are kept after they were last seen.
// A nil pool has the default.
func GracePeriod(pool *v1alpha1.HSMPool) time.Duration {
	if pool == nil || pool.Spec.GracePeriod == nil {
		return DefaultGracePeriod
	}
	return pool.Spec.GracePeriod.Duration
}

// ServedByAgents reports whether agents serve the tokens of an HSMDevice. Without
// spec.pkcs11 they are only discovered.
func ServedByAgents(device *v1alpha1.HSMDevice) bool {
	return device != nil && device.DeletionTimestamp == nil && device.Spec.PKCS11 != nil
}
