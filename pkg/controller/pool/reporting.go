// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

// pods is how complete the reports of a pool are.
type pods struct {
	reporting []v1alpha1.ReportingPod
	expected  int32
	// missing reports are those that are not there, coming those among them that
	// there is no reason to miss yet.
	missing, coming int32
	// failed is a report that tells of an error; nil if there is none.
	failed *v1alpha1.ReportingPod
}

// reporting counts the reports. A pod that is gone counts until its successor
// reports, or its report is too old.
func (f *facts) reporting(d *decision, pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice) pods {
	grace := membership.GracePeriod(pool)
	var p pods
	if len(devices) == 0 {
		return p // There is nothing to report.
	}
	var unselected, fresh, young int32
	for name, n := range f.nodes {
		counts, until := n.fresh(grace, f.now)
		if end := n.awaited.Add(grace); n.alive && n.entries == nil && f.now.Before(end) {
			d.wake(end)
			young++
		}
		r, selected := f.reportingPod(pool, devices, name, n)
		switch {
		case !selected && counts:
			unselected++
			d.wake(until)
		case r == nil, !counts && !n.alive:
			continue
		default:
			if counts {
				d.wake(until)
				fresh++
			}
			r.Fresh = counts
			if !counts && n.entries != nil {
				r.LastReportTime = stamp(n.time)
			}
			p.reporting = append(p.reporting, *r)
		}
	}
	slices.SortFunc(p.reporting, func(a, b v1alpha1.ReportingPod) int {
		return cmp.Or(cmp.Compare(a.PodName, b.PodName), cmp.Compare(a.NodeName, b.NodeName))
	})
	p.reporting = slices.CompactFunc(p.reporting, func(a, b v1alpha1.ReportingPod) bool { return a.PodName == b.PodName })
	for i := range p.reporting {
		if p.reporting[i].DiscoveryStatus == v1alpha1.DiscoveryStatusError {
			p.failed = &p.reporting[i]
		}
	}
	p.expected = max(0, f.wanted-unselected)
	p.missing = max(0, p.expected-fresh)
	p.coming = min(p.missing, young)
	if end := pool.CreationTimestamp.Add(grace); f.now.Before(end) {
		p.coming = p.missing
		d.wake(end)
	}
	return p
}

// reportingPod is the pod that has reported for the HSMDevices of a pool last; nil if
// none has. selected is false if none of them selects the node.
func (f *facts) reportingPod(pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, name string, n *node) (r *v1alpha1.ReportingPod, selected bool) {
	previous := slices.IndexFunc(pool.Status.ReportingPods, func(r v1alpha1.ReportingPod) bool { return r.NodeName == name })
	if n.entries == nil {
		// Nothing was heard since the start.
		if previous < 0 {
			return nil, true
		}
		return new(pool.Status.ReportingPods[previous]), true
	}
	entries := 0
	for _, device := range devices {
		entry, found := n.entries[keyOf(device)]
		if !found {
			continue
		}
		entries++
		if !entry.NodeSelected {
			continue
		}
		if r == nil {
			r = &v1alpha1.ReportingPod{PodName: n.pod, NodeName: name, DiscoveryStatus: entry.DiscoveryStatus}
		}
		r.DevicesFound += int32(len(entry.DiscoveredDevices) + entry.OmittedDevices)
		if entry.DiscoveryStatus != v1alpha1.DiscoveryStatusCompleted {
			r.DiscoveryStatus = entry.DiscoveryStatus
		}
		if entry.Error != "" {
			r.Error = truncate(entry.Error)
		}
	}
	if r == nil {
		return nil, entries == 0 || entries < len(devices)
	}
	r.LastReportTime = stamp(n.time)
	r.Fresh = true
	if previous >= 0 {
		same := *r
		same.LastReportTime = pool.Status.ReportingPods[previous].LastReportTime
		if equality.Semantic.DeepEqual(same, pool.Status.ReportingPods[previous]) {
			r = &same
		}
	}
	return r, true
}
