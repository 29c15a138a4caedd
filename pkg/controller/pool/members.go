// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"slices"
	"strings"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

// poolsOfTokens says in which pool each token is a member: where it is available, or else
// where it has been a member, or else where it is absent.
func (f *facts) poolsOfTokens(observed map[key][]*observation) map[string]key {
	type choice struct {
		pool key
		rank int
	}
	best := map[string]choice{}
	for _, pool := range f.pools {
		for _, o := range observed[keyOf(pool)] {
			if f.isDropped(o) || o.SerialNumber == "" {
				continue
			}
			rank := 2
			if o.Available {
				rank = 0
			} else if findMember(&pool.Status, o.SerialNumber) != nil {
				rank = 1
			}
			if b, found := best[o.SerialNumber]; !found || rank < b.rank {
				best[o.SerialNumber] = choice{keyOf(pool), rank}
			}
		}
	}
	pools := map[string]key{}
	for serial, b := range best {
		pools[serial] = b.pool
	}
	return pools
}

// members are the tokens of a pool that have an agent, or are to have one. A token
// stays a member until neither its device nor its agent is there any more.
func (f *facts) members(pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, aggregated []v1alpha1.AggregatedDevice, memberOf map[string]key) []v1alpha1.PoolMember {
	listed := map[string]*v1alpha1.AggregatedDevice{}
	for i := range aggregated {
		device := &aggregated[i]
		if memberOf[device.SerialNumber] == keyOf(pool) && (listed[device.SerialNumber] == nil || device.Available) {
			listed[device.SerialNumber] = device
		}
	}
	var members []v1alpha1.PoolMember
	for serial, device := range listed {
		previous := findMember(&pool.Status, serial)
		_, runs := f.agentOf(serial)
		if runs || (device.Available || previous != nil) && isServed(devices, device) {
			members = append(members, f.member(serial, device, previous))
		}
	}
	for i := range pool.Status.Members {
		previous := &pool.Status.Members[i]
		_, runs := f.agentOf(previous.SerialNumber)
		_, elsewhere := memberOf[previous.SerialNumber]
		if runs && !elsewhere {
			members = append(members, f.member(previous.SerialNumber, nil, previous))
		}
	}
	slices.SortFunc(members, func(a, b v1alpha1.PoolMember) int { return strings.Compare(a.SerialNumber, b.SerialNumber) })
	return members
}

// isServed reports whether agents serve the tokens of the HSMDevice that describes a device.
func isServed(devices []*v1alpha1.HSMDevice, device *v1alpha1.AggregatedDevice) bool {
	return slices.ContainsFunc(devices, func(d *v1alpha1.HSMDevice) bool {
		return d.Name == device.HSMDeviceName && membership.ServedByAgents(d)
	})
}

// findMember returns the member with a serial number, or nil.
func findMember(status *v1alpha1.HSMPoolStatus, serial string) *v1alpha1.PoolMember {
	i := slices.IndexFunc(status.Members, func(m v1alpha1.PoolMember) bool { return m.SerialNumber == serial })
	if i < 0 {
		return nil
	}
	return &status.Members[i]
}
