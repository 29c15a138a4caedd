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

// facts are all that a decision is made of.
type facts struct {
	now     time.Time
	devices []*v1alpha1.HSMDevice
	// pools have the status that was written last.
	pools []*v1alpha1.HSMPool
	// wanted is on how many nodes discovery is to run; negative if there is no
	// DaemonSet.
	wanted int32
	nodes  map[string]*node
	// agents are by agentname.For.
	agents map[string]agent
	// written is when the status of a pool was last written, as far as is known.
	written map[key]time.Time
}

// decision is what the statuses of all pools are to be, until when.
type decision struct {
	statuses map[key]v1alpha1.HSMPoolStatus
	// next is when another decision may come out of the same facts; zero is never.
	next time.Time
}

// wake notes that something changes at a time.
func (d *decision) wake(at time.Time) {
	if d.next.IsZero() || at.Before(d.next) {
		d.next = at
	}
}

// decide is a pure function. All pools are decided on at once, because a serial
// number must be of one token in all of them.
//
//	reports ──> sightings ──> ambiguous? ──> too many? ──> aggregatedDevices ─┐
//	agents ────────────────────────────────────────────────────> members ─────┼─> phase, conditions
//	expected and reporting pods ──────────────────────────────────────────────┘
func decide(f *facts) decision {
	d := decision{statuses: map[key]v1alpha1.HSMPoolStatus{}}
	described := claims(f)
	seen := map[key][]*sighting{}
	var all []*sighting
	for _, pool := range f.pools {
		for _, device := range described[keyOf(pool)] {
			found := f.sightings(&d, pool, device)
			seen[keyOf(pool)] = append(seen[keyOf(pool)], found...)
			all = append(all, found...)
		}
	}
	f.refuseAmbiguous(all)
	for _, pool := range f.pools {
		for _, device := range described[keyOf(pool)] {
			f.refuseSurplus(&d, device, seen[keyOf(pool)])
		}
	}
	homes := f.homes(seen)
	for _, pool := range f.pools {
		d.statuses[keyOf(pool)] = f.status(&d, pool, described[keyOf(pool)], seen[keyOf(pool)], homes)
	}
	return d
}

// status puts the status of a pool together.
func (f *facts) status(d *decision, pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, seen []*sighting, homes map[string]key) v1alpha1.HSMPoolStatus {
	previous := &pool.Status
	status := v1alpha1.HSMPoolStatus{
		ObservedGeneration:  pool.Generation,
		LastAggregationTime: previous.LastAggregationTime,
		Conditions:          slices.Clone(previous.Conditions),
	}
	status.AggregatedDevices = f.aggregate(seen)
	status.TotalDevices = int32(len(status.AggregatedDevices))
	for i := range status.AggregatedDevices {
		if status.AggregatedDevices[i].Available {
			status.AvailableDevices++
		}
	}
	pods := f.reporting(d, pool, devices)
	status.ReportingPods, status.ExpectedPods = pods.reporting, pods.expected
	status.Members = f.members(pool, devices, status.AggregatedDevices, homes)
	f.sumUp(d, pool, devices, pods, &status)
	if !equality.Semantic.DeepEqual(reported(&status), reported(previous)) {
		status.LastAggregationTime = f.stamp()
	}
	f.holdFigures(d, pool, &status)
	return status
}

// reported is the part of a status that discovery's reports make.
func reported(s *v1alpha1.HSMPoolStatus) v1alpha1.HSMPoolStatus {
	return v1alpha1.HSMPoolStatus{ReportingPods: s.ReportingPods, AggregatedDevices: s.AggregatedDevices, ExpectedPods: s.ExpectedPods}
}

// stamp is now as the API tells it: whole seconds.
func (f *facts) stamp() *metav1.Time { return stamp(f.now) }

func stamp(t time.Time) *metav1.Time { return new(metav1.NewTime(t.UTC().Truncate(time.Second))) }

// claims returns the HSMDevices of each pool.
func claims(f *facts) map[key][]*v1alpha1.HSMDevice {
	described := map[key][]*v1alpha1.HSMDevice{}
	for _, device := range f.devices {
		if pool := membership.PoolOf(f.pools, keyOf(device)); pool != nil {
			described[keyOf(pool)] = append(described[keyOf(pool)], device)
		}
	}
	return described
}

func keyOf(object metav1.Object) key {
	return key{Namespace: object.GetNamespace(), Name: object.GetName()}
}

// agentOf is the agent of a token; false if there is none.
func (f *facts) agentOf(serial string) (agent, bool) {
	a, found := f.agents[agentname.For(serial)]
	return a, found && serial != ""
}
