// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

// noDaemonSet is the number of discovery pods when there is no DaemonSet.
const noDaemonSet = -1

// facts are all that a decision is made of.
type facts struct {
	now     time.Time
	devices []*v1alpha1.HSMDevice
	// pools have the status that was written last.
	pools []*v1alpha1.HSMPool
	// discoveryPods is on how many nodes the DaemonSet of discovery wants a pod, or
	// noDaemonSet.
	discoveryPods int32
	nodes         map[string]*node
	// agents are by agentname.For.
	agents map[string]agent
	// written is when the status of a pool was last written, as far as is known.
	written map[key]time.Time
}

// decision is what is to be written, and until when that is right.
type decision struct {
	// missing are the HSMDevices for which a pool is to be made.
	missing []*v1alpha1.HSMDevice
	// notOwned are the pools that stand where the controller would have made its own.
	notOwned []notOwnedPool
	statuses map[key]v1alpha1.HSMPoolStatus
	// next is when another decision may come out of the same facts; zero is never.
	next time.Time
}

// notOwnedPool is a pool with the name of an HSMDevice that was not made for it.
type notOwnedPool struct {
	pool   *v1alpha1.HSMPool
	device string
}

// recheckAt: something changes at a time.
func (d *decision) recheckAt(at time.Time) {
	if d.next.IsZero() || at.Before(d.next) {
		d.next = at
	}
}

// decide is a pure function. All pools are decided on at once, because a serial number
// must be that of one token in all of them.
//
//	reports ──► observations ──► duplicates? ──► surplus? ──► aggregatedDevices ─┐
//	  observe.go                 refuse.go                    aggregate.go       │
//	agents' pods and answers ──► members ────────────────────────────────────────┼─► phase, conditions
//	  members.go                                                                 │   phase.go, conditions.go
//	expected and reporting pods ─────────────────────────────────────────────────┘
//	  reporting.go
func decide(f *facts) decision {
	d := decision{statuses: map[key]v1alpha1.HSMPoolStatus{}}
	devicesOf := f.devicesByPool()
	d.missing, d.notOwned = f.poolsOfDevices()
	observed := map[key][]*observation{}
	var all []*observation
	for _, pool := range f.pools {
		for _, device := range devicesOf[keyOf(pool)] {
			found := f.observe(&d, pool, device)
			observed[keyOf(pool)] = append(observed[keyOf(pool)], found...)
			all = append(all, found...)
		}
	}
	f.refuseDuplicates(all)
	for _, pool := range f.pools {
		for _, device := range devicesOf[keyOf(pool)] {
			f.refuseSurplus(&d, device, observed[keyOf(pool)])
		}
	}
	memberOf := f.poolsOfTokens(observed)
	for _, pool := range f.pools {
		d.statuses[keyOf(pool)] = f.status(&d, pool, devicesOf[keyOf(pool)], observed[keyOf(pool)], memberOf)
	}
	return d
}

// devicesByPool are the HSMDevices that belong to each pool.
func (f *facts) devicesByPool() map[key][]*v1alpha1.HSMDevice {
	devices := map[key][]*v1alpha1.HSMDevice{}
	for _, device := range f.devices {
		if pool := membership.PoolOf(f.pools, keyOf(device)); pool != nil {
			devices[keyOf(pool)] = append(devices[keyOf(pool)], device)
		}
	}
	return devices
}

// poolsOfDevices says which HSMDevices lack a pool, and which pools of their names were
// not made for them. An HSMDevice that another pool lists lacks none.
func (f *facts) poolsOfDevices() (missing []*v1alpha1.HSMDevice, notOwned []notOwnedPool) {
	for _, device := range f.devices {
		i := slices.IndexFunc(f.pools, func(pool *v1alpha1.HSMPool) bool { return keyOf(pool) == keyOf(device) })
		if i < 0 {
			if membership.PoolOf(f.pools, keyOf(device)) == nil {
				missing = append(missing, device)
			}
			continue
		}
		// A pool of an earlier HSMDevice of this name is for the garbage collector.
		owner := metav1.GetControllerOf(f.pools[i])
		if owner == nil || owner.Kind != "HSMDevice" || owner.Name != device.Name {
			notOwned = append(notOwned, notOwnedPool{f.pools[i], device.Name})
		}
	}
	return missing, notOwned
}

// status puts the status of a pool together.
func (f *facts) status(d *decision, pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, observed []*observation, memberOf map[string]key) v1alpha1.HSMPoolStatus {
	previous := &pool.Status
	status := v1alpha1.HSMPoolStatus{
		ObservedGeneration:  pool.Generation,
		LastAggregationTime: previous.LastAggregationTime,
		Conditions:          slices.Clone(previous.Conditions),
	}
	status.AggregatedDevices = f.aggregate(observed)
	status.TotalDevices = int32(len(status.AggregatedDevices))
	for i := range status.AggregatedDevices {
		if status.AggregatedDevices[i].Available {
			status.AvailableDevices++
		}
	}
	pods := f.reporting(d, pool, devices)
	status.ReportingPods, status.ExpectedPods = pods.reporting, pods.expected
	status.Members = f.members(pool, devices, status.AggregatedDevices, memberOf)
	tokens := f.countTokens(d, pool, devices, &status)
	status.Phase = phaseOf(f.counts(tokens, pods))
	f.setConditions(pool, devices, pods, tokens, &status)
	if !equality.Semantic.DeepEqual(reported(&status), reported(previous)) {
		status.LastAggregationTime = timestamp(f.now)
	}
	f.holdFigures(d, pool, &status)
	return status
}

// reported is the part of a status that discovery's reports make.
func reported(s *v1alpha1.HSMPoolStatus) v1alpha1.HSMPoolStatus {
	return v1alpha1.HSMPoolStatus{ReportingPods: s.ReportingPods, AggregatedDevices: s.AggregatedDevices, ExpectedPods: s.ExpectedPods}
}

// timestamp is a time as the API has it: whole seconds.
func timestamp(t time.Time) *metav1.Time { return new(metav1.NewTime(t.UTC().Truncate(time.Second))) }

func keyOf(object metav1.Object) key {
	return key{Namespace: object.GetNamespace(), Name: object.GetName()}
}

// agentOf returns the agent of a token; false if there is none.
func (f *facts) agentOf(serial string) (agent, bool) {
	a, found := f.agents[agentname.For(serial)]
	return a, found && serial != ""
}
