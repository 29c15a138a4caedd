// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"math"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/inventory"
	"j5t.io/hsm/pkg/discovery/report"
)

// gracePeriods are those of all HSMPools, by name.
func (d *Discovery) gracePeriods() map[types.NamespacedName]time.Duration {
	// Nothing is looked up that could fail: the list is the informer's own.
	pools, _ := d.pools.List(labels.Everything())
	periods := make(map[types.NamespacedName]time.Duration, len(pools))
	for _, pool := range pools {
		period := inventory.DefaultGracePeriod
		if pool.Spec.GracePeriod != nil {
			period = pool.Spec.GracePeriod.Duration
		}
		periods[types.NamespacedName{Namespace: pool.Namespace, Name: pool.Name}] = period
	}
	return periods
}

// maxReportAge is half of the shortest time that a report counts for.
func (d *Discovery) maxReportAge() time.Duration {
	periods := d.gracePeriods()
	if len(periods) == 0 {
		return inventory.DefaultGracePeriod / 2
	}
	shortest := time.Duration(math.MaxInt64)
	for _, period := range periods {
		shortest = min(shortest, period)
	}
	return max(shortest/2, minReportAge)
}

// found is a look at the node as those see it who give access to tokens.
func (d *Discovery) found(entries []report.Entry, tokens []inventory.Token, now time.Time) inventory.Found {
	periods := d.gracePeriods()
	found := inventory.Found{Tokens: tokens, HSMDevices: make(map[types.NamespacedName]inventory.HSMDevice, len(entries)), Time: now}
	for _, entry := range entries {
		// An HSMPool has the name of its HSMDevice.
		name := types.NamespacedName{Namespace: entry.HSMDeviceNamespace, Name: entry.HSMDeviceName}
		found.HSMDevices[name] = inventory.HSMDevice{
			Unknown:     entry.DiscoveryStatus == v1alpha1.DiscoveryStatusError,
			GracePeriod: periods[name],
		}
	}
	return found
}
