// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

// podCounts say how complete the reports of a pool are.
type podCounts struct {
	reporting []v1alpha1.ReportingPod
	expected  int32
	// missing pods have no report that counts. Of these, pending ones are so new that
	// nothing is wrong yet.
	missing, pending int32
	// failed is a report of an error; nil if there is none.
	failed *v1alpha1.ReportingPod
}

// reporting counts the reports. A pod that is gone counts until its successor
// reports, or its report is too old.
func (f *facts) reporting(d *decision, pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice) podCounts {
	grace := membership.GracePeriod(pool)
	var p podCounts
	if len(devices) == 0 {
		return p // There is nothing to report.
	}
	var unselected, fresh, recent int32
	for name, n := range f.nodes {
		counts, until := n.counts(grace, f.now)
		if end := n.podCreated.Add(grace); n.hasPod && n.entries == nil && f.now.Before(end) {
			d.recheckAt(end)
			recent++
		}
		r, selected := f.reportingPod(pool, devices, name, n)
		switch {
		case !selected && counts:
			unselected++
			d.recheckAt(until)
		case r == nil, !counts && !n.hasPod:
			continue
		default:
			if counts {
				d.recheckAt(until)
				fresh++
			}
			r.Fresh = counts
			if !counts && n.entries != nil {
				r.LastReportTime = timestamp(n.time)
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
	p.expected = max(0, f.discoveryPods-unselected)
	p.missing = max(0, p.expected-fresh)
	p.pending = min(p.missing, recent)
	if end := pool.CreationTimestamp.Add(grace); f.now.Before(end) {
		p.pending = p.missing
		d.recheckAt(end)
	}
	return p
}

// reportingPod returns the pod that has reported last for the HSMDevices of a pool; nil if
// none has. selected is false if none of the HSMDevices selects the node.
func (f *facts) reportingPod(pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, name string, n *node) (r *v1alpha1.ReportingPod, selected bool) {
	previous := slices.IndexFunc(pool.Status.ReportingPods, func(r v1alpha1.ReportingPod) bool { return r.NodeName == name })
	if n.entries == nil {
		// It has not reported since the start.
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
	r.LastReportTime = timestamp(n.time)
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
