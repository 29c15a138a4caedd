// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/allocatable"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/membership"
)

// knownPools returns all HSMPools, from the informer's store.
func (d *Discovery) knownPools() []*v1alpha1.HSMPool {
	pools, _ := d.pools.List(labels.Everything()) // It cannot fail: nothing is requested.
	return pools
}

// maxReportAge returns half of the shortest gracePeriod: a report that is renewed at that
// age always counts.
func (d *Discovery) maxReportAge() time.Duration {
	pools := d.knownPools()
	if len(pools) == 0 {
		return membership.DefaultGracePeriod / 2
	}
	shortest := membership.GracePeriod(pools[0])
	for _, pool := range pools {
		shortest = min(shortest, membership.GracePeriod(pool))
	}
	return max(shortest/2, minReportAge)
}

// scanResult puts together what those need who give pods access to tokens.
func (d *Discovery) scanResult(entries []report.Entry, tokens []allocatable.Token, now time.Time) allocatable.Scan {
	pools := d.knownPools()
	scan := allocatable.Scan{Tokens: tokens, HSMDevices: make(map[types.NamespacedName]allocatable.HSMDevice, len(entries)), Time: now}
	for _, entry := range entries {
		name := types.NamespacedName{Namespace: entry.HSMDeviceNamespace, Name: entry.HSMDeviceName}
		scan.HSMDevices[name] = allocatable.HSMDevice{
			Unknown:     entry.DiscoveryStatus == v1alpha1.DiscoveryStatusError,
			GracePeriod: membership.GracePeriod(membership.PoolOf(pools, name)),
		}
	}
	return scan
}
