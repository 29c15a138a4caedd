// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

// The reasons of devices that are not available, beside those of package report.
const (
	reasonUnplugged       = "Unplugged"
	reasonNotReporting    = "NodeNotReporting"
	reasonNotSelected     = "NodeNotSelected"
	reasonSerialAmbiguous = "SerialAmbiguous"
	reasonOverMaxDevices  = "OverMaxDevices"
)

// maxMessage is how many bytes of each message a status has room for.
const maxMessage = 256

// deviceFacts are what the verdict on a device is made of.
type deviceFacts struct {
	reported bool // It is in the last report of its node.
	refused  bool // That report says that it cannot be used.
	listed   bool // The status of a pool lists it.
	// reportCounts: the report is not older than the grace period.
	reportCounts bool
	nodeHasPod   bool // Of discovery.
	// absenceCounts: the HSMDevice was looked for, without an error.
	absenceCounts bool
	nodeSelected  bool // By the HSMDevice.
}

// A verdict is how a device stands.
type verdict string

const (
	verdictUsable      verdict = "Usable"
	verdictRefused     verdict = "Refused"     // By its node.
	verdictDropped     verdict = "Dropped"     // It was listed, and its grace period is over.
	verdictSilent      verdict = "Silent"      // Its node does not report.
	verdictUnchanged   verdict = "Unchanged"   // Nothing new is known.
	verdictNotSelected verdict = "NotSelected" // Its node is not selected any more.
	verdictUnplugged   verdict = "Unplugged"   // Its node reports, without it.
)

// judge is a pure function: the first case that applies decides.
func judge(f deviceFacts) verdict {
	switch {
	case f.reported && f.refused:
		return verdictRefused
	case f.reported && f.reportCounts:
		return verdictUsable
	case f.reported && !f.listed && !f.nodeHasPod:
		return verdictDropped
	case !f.reportCounts:
		return verdictSilent
	case !f.absenceCounts:
		return verdictUnchanged
	case !f.nodeSelected:
		return verdictNotSelected
	}
	return verdictUnplugged
}

// observation is a device of a pool, and how it stands.
type observation struct {
	v1alpha1.AggregatedDevice
	// previous is what the status says of it; nil if nothing.
	previous *v1alpha1.AggregatedDevice
	// present: it was reported as usable, and that counts. No other token may have its
	// serial number.
	present bool
	// absent: it is not there any more, or its node does not report. It is dropped at the
	// time dropAt, if there is one.
	absent bool
	dropAt time.Time
}

// refuse makes a device unavailable.
func (o *observation) refuse(reason, format string, args ...any) {
	o.Available, o.Reason, o.Message = false, reason, truncate(fmt.Sprintf(format, args...))
}

func truncate(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "")
}

// observe returns the devices of one HSMDevice: those that are reported, and those that
// were and are not dropped yet.
func (f *facts) observe(d *decision, pool *v1alpha1.HSMPool, device *v1alpha1.HSMDevice) []*observation {
	listed := map[string][]*v1alpha1.AggregatedDevice{}
	for i := range f.pools {
		for j := range f.pools[i].Status.AggregatedDevices {
			a := &f.pools[i].Status.AggregatedDevices[j]
			if f.pools[i].Namespace == device.Namespace && a.HSMDeviceName == device.Name {
				listed[a.NodeName] = append(listed[a.NodeName], a)
			}
		}
	}
	var all []*observation
	for name, n := range f.nodes {
		v := nodeView{facts: f, decision: d, device: device, name: name, node: n, grace: membership.GracePeriod(pool), listed: listed[name]}
		all = append(all, v.observe()...)
	}
	return all
}

// nodeView is what one node has of one HSMDevice.
type nodeView struct {
	*facts
	*decision
	device *v1alpha1.HSMDevice
	name   string
	node   *node
	grace  time.Duration
	listed []*v1alpha1.AggregatedDevice
}

func (v *nodeView) observe() []*observation {
	counts, until := v.node.counts(v.grace, v.now)
	entry, known := v.node.entries[keyOf(v.device)]
	if counts && (known || len(v.listed) > 0) {
		v.recheckAt(until)
	}
	about := deviceFacts{
		reportCounts: counts, nodeHasPod: v.node.hasPod, nodeSelected: entry.NodeSelected,
		absenceCounts: known && entry.DiscoveryStatus == v1alpha1.DiscoveryStatusCompleted,
	}
	var all []*observation
	for _, found := range entry.DiscoveredDevices {
		o := &observation{AggregatedDevice: v1alpha1.AggregatedDevice{
			SerialNumber: found.SerialNumber, NodeName: v.name, DevicePath: found.DevicePath, HSMDeviceName: v.device.Name, ShortAPDUs: found.ShortAPDUs,
			LastSeen: timestamp(entry.LastReportTime.Time),
		}}
		o.previous = v.match(found.SerialNumber, found.DevicePath)
		if found.Reason != "" {
			o.refuse(string(found.Reason), "%s", found.Message)
		}
		about.reported, about.refused, about.listed = true, found.Reason != "", o.previous != nil
		all = v.appendJudged(all, o, judge(about))
	}
	about.reported, about.refused, about.listed = false, false, true
	for _, previous := range v.listed {
		if !slices.ContainsFunc(all, func(o *observation) bool { return o.previous == previous }) {
			all = v.appendJudged(all, &observation{AggregatedDevice: *previous, previous: previous}, judge(about))
		}
	}
	return slices.DeleteFunc(all, v.isDropped)
}

// match finds what was listed of a device: by its serial number, which stays when it is
// plugged in again, or by its path.
func (v *nodeView) match(serial, path string) *v1alpha1.AggregatedDevice {
	for _, previous := range v.listed {
		if previous.SerialNumber == serial && (serial != "" || previous.DevicePath == path) {
			return previous
		}
	}
	return nil
}

// appendJudged carries out a verdict.
func (v *nodeView) appendJudged(all []*observation, o *observation, j verdict) []*observation {
	switch j {
	case verdictUsable:
		o.Available, o.present = true, true
	case verdictDropped:
		return all
	case verdictSilent:
		v.markSilent(o)
	case verdictUnchanged:
		o.present = o.Available || isRefusedHere(o.Reason)
		o.absent = isAbsent(o.Reason)
		v.expire(o)
	case verdictNotSelected:
		v.markGone(o, reasonNotSelected, "HSMDevice %s does not select node %s any more", v.device.Name, v.name)
	case verdictUnplugged:
		v.markGone(o, reasonUnplugged, "it was unplugged from node %s, or does not match HSMDevice %s any more", v.name, v.device.Name)
	}
	return append(all, o)
}

// markSilent is for a device whose node does not report any more. It stays listed while
// the node has a discovery pod, or discovery does not run at all.
func (v *nodeView) markSilent(o *observation) {
	if o.Available || o.Reason == "" || o.Reason == reasonNotReporting {
		o.refuse(reasonNotReporting, "node %s has not reported for %s; is it down, or its clock wrong?", v.name, v.grace)
	}
	o.absent = true
	if !v.node.hasPod && v.discoveryPods >= 0 || o.Reason == reasonUnplugged || o.Reason == reasonNotSelected {
		v.expire(o)
	}
}

// markGone is for a device that is not there any more. One that could not be used is
// dropped at once.
func (v *nodeView) markGone(o *observation, reason, format string, args ...any) {
	if !o.Available && !isAbsent(o.Reason) && !isRefusedHere(o.Reason) {
		o.dropAt = v.now
		return
	}
	o.refuse(reason, format, args...)
	o.absent = true
	v.expire(o)
}

// expire has an absent device dropped when it has been absent for the grace period.
func (v *nodeView) expire(o *observation) {
	if !o.absent {
		return
	}
	since := v.now
	if o.previous != nil && o.previous.Reason == o.Reason && o.previous.LastTransitionTime != nil {
		since = o.previous.LastTransitionTime.Time
	}
	if o.dropAt = since.Add(v.grace); !v.isDropped(o) {
		v.recheckAt(o.dropAt)
	}
}

// isAbsent reports whether a reason says that the device is not there.
func isAbsent(reason string) bool {
	return reason == reasonUnplugged || reason == reasonNotReporting || reason == reasonNotSelected
}

// isRefusedHere reports whether a reason is the controller's: the node reports the device
// as usable.
func isRefusedHere(reason string) bool {
	return reason == reasonSerialAmbiguous || reason == reasonOverMaxDevices
}

func (f *facts) isDropped(o *observation) bool { return !o.dropAt.IsZero() && !f.now.Before(o.dropAt) }
