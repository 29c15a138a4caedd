// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

const (
	// seatTime is how long a token that is gone keeps its place among maxDevices: a
	// device that is enumerated anew is back within it.
	seatTime = 30 * time.Second
	// maxListed is how many devices the status of a pool has room for, and maxMessage
	// how many bytes of each message: a pool is kept in a ConfigMap.
	maxListed  = 500
	maxMessage = 256
)

// sighting is a device of a pool, and how it stands.
type sighting struct {
	v1alpha1.AggregatedDevice
	// previous is what the pool said of it; nil if nothing.
	previous *v1alpha1.AggregatedDevice
	// present tells that it was reported as usable, and that this counts: no other token
	// may tell its serial number.
	present bool
	// gone tells that it is not there any more, or its node does not tell. It is
	// dropped at the time, if there is one.
	gone    bool
	dropped time.Time
}

// refuse makes a device unavailable.
func (s *sighting) refuse(reason, format string, args ...any) {
	s.Available, s.Reason, s.Message = false, reason, truncate(fmt.Sprintf(format, args...))
}

func truncate(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "")
}

// sightings are the devices of one HSMDevice: those that are reported, and those that
// were and are not dropped yet.
func (f *facts) sightings(d *decision, pool *v1alpha1.HSMPool, device *v1alpha1.HSMDevice) []*sighting {
	before := map[string][]*v1alpha1.AggregatedDevice{}
	for i := range f.pools {
		for j := range f.pools[i].Status.AggregatedDevices {
			a := &f.pools[i].Status.AggregatedDevices[j]
			if f.pools[i].Namespace == device.Namespace && a.HSMDeviceName == device.Name {
				before[a.NodeName] = append(before[a.NodeName], a)
			}
		}
	}
	var all []*sighting
	for name, n := range f.nodes {
		l := look{facts: f, decision: d, device: device, name: name, node: n, grace: membership.GracePeriod(pool), before: before[name]}
		all = append(all, l.sightings()...)
	}
	return all
}

// look is at one HSMDevice on one node.
type look struct {
	*facts
	*decision
	device *v1alpha1.HSMDevice
	name   string
	node   *node
	grace  time.Duration
	before []*v1alpha1.AggregatedDevice
}

func (l *look) sightings() []*sighting {
	fresh, until := l.node.fresh(l.grace, l.now)
	entry, known := l.node.entries[keyOf(l.device)]
	if fresh && (known || len(l.before) > 0) {
		l.wake(until)
	}
	var all []*sighting
	for _, found := range entry.DiscoveredDevices {
		s := &sighting{AggregatedDevice: v1alpha1.AggregatedDevice{
			SerialNumber: found.SerialNumber, NodeName: l.name, DevicePath: found.DevicePath, HSMDeviceName: l.device.Name,
			LastSeen: stamp(entry.LastReportTime.Time),
		}}
		s.previous = l.recognise(found.SerialNumber, found.DevicePath)
		switch {
		case found.Reason != "":
			s.refuse(string(found.Reason), "%s", found.Message)
		case fresh:
			s.Available, s.present = true, true
		case s.previous == nil && !l.node.alive:
			continue // It is what was dropped already.
		default:
			l.lose(s)
		}
		all = append(all, s)
	}
	for _, previous := range l.before {
		if slices.ContainsFunc(all, func(s *sighting) bool { return s.previous == previous }) {
			continue
		}
		s := &sighting{AggregatedDevice: *previous, previous: previous}
		switch {
		case !fresh:
			l.lose(s)
		case !known || entry.DiscoveryStatus != v1alpha1.DiscoveryStatusCompleted:
			// Its absence means nothing: it stays as it was.
			s.present = previous.Available || previous.Reason == reasonSerialAmbiguous || previous.Reason == reasonOverMaxDevices
			s.gone = isGone(previous.Reason)
			l.age(s)
		case !entry.NodeSelected:
			l.end(s, reasonNotSelected, "HSMDevice %s does not select node %s any more", l.device.Name, l.name)
		default:
			l.end(s, reasonUnplugged, "it was unplugged from node %s, or does not match HSMDevice %s any more", l.name, l.device.Name)
		}
		all = append(all, s)
	}
	return slices.DeleteFunc(all, l.isDropped)
}

// recognise finds what was known of a device: by its serial number, which stays when
// it is plugged in again, or by its path.
func (l *look) recognise(serial, path string) *v1alpha1.AggregatedDevice {
	for _, previous := range l.before {
		if previous.SerialNumber == serial && (serial != "" || previous.DevicePath == path) {
			return previous
		}
	}
	return nil
}

// lose is for a device of which its node does not tell any more. It is not forgotten
// while the node has a discovery pod, or nobody runs discovery.
func (l *look) lose(s *sighting) {
	if s.Available || s.Reason == "" || s.Reason == reasonNotReporting {
		s.refuse(reasonNotReporting, "node %s has not reported for %s; is it down, or its clock wrong?", l.name, l.grace)
	}
	s.gone = true
	if !l.node.alive && l.wanted >= 0 || s.Reason == reasonUnplugged || s.Reason == reasonNotSelected {
		l.age(s)
	}
}

// end is for a device that is not there any more. One that could not be used is not
// missed.
func (l *look) end(s *sighting, reason, format string, args ...any) {
	if !s.Available && !isGone(s.Reason) && s.Reason != reasonSerialAmbiguous && s.Reason != reasonOverMaxDevices {
		s.dropped = l.now
		return
	}
	s.refuse(reason, format, args...)
	s.gone = true
	l.age(s)
}

// age has a device that is gone dropped gracePeriod after that was noticed.
func (l *look) age(s *sighting) {
	if !s.gone {
		return
	}
	since := l.now
	if s.previous != nil && s.previous.Reason == s.Reason && s.previous.LastTransitionTime != nil {
		since = s.previous.LastTransitionTime.Time
	}
	if s.dropped = since.Add(l.grace); !l.isDropped(s) {
		l.wake(s.dropped)
	}
}

func isGone(reason string) bool {
	return reason == reasonUnplugged || reason == reasonNotReporting || reason == reasonNotSelected
}

func (f *facts) isDropped(s *sighting) bool { return !s.dropped.IsZero() && !f.now.Before(s.dropped) }

// refuseAmbiguous refuses all tokens that tell the same serial number, wherever they
// are. One that is gone is not another one: it has been carried to where it is.
func (f *facts) refuseAmbiguous(all []*sighting) {
	bySerial := map[string][]*sighting{}
	for _, s := range all {
		if s.present && s.SerialNumber != "" {
			bySerial[s.SerialNumber] = append(bySerial[s.SerialNumber], s)
		}
	}
	for _, same := range bySerial {
		if len(same) == 1 {
			continue
		}
		places := make([]string, len(same))
		for i, s := range same {
			places[i] = s.NodeName + " (HSMDevice " + s.HSMDeviceName + ")"
		}
		slices.Sort(places)
		for _, s := range same {
			s.refuse(reasonSerialAmbiguous, "%d tokens tell this serial number, on the nodes %s; unplug all but one", len(same), strings.Join(places, ", "))
		}
	}
	for _, s := range all {
		if s.gone && len(bySerial[s.SerialNumber]) > 0 {
			s.dropped = f.now // It is listed where it is now.
		}
	}
}

// refuseSurplus refuses the devices beyond maxDevices. Those that are served stay.
func (f *facts) refuseSurplus(d *decision, device *v1alpha1.HSMDevice, seen []*sighting) {
	type seat struct {
		*sighting
		rank int
	}
	var seats []seat
	for _, s := range seen {
		if s.HSMDeviceName != device.Name || f.isDropped(s) {
			continue
		}
		held := s.Available && s.previous != nil && s.previous.Available
		if s.gone {
			until := f.since(s).Add(seatTime)
			if held = f.now.Before(until); held {
				d.wake(until)
			}
		}
		if !s.Available && !held {
			continue
		}
		_, served := f.agentOf(s.SerialNumber)
		rank := 0
		if !held {
			rank += 2
		}
		if !served {
			rank++
		}
		seats = append(seats, seat{s, rank})
	}
	slices.SortFunc(seats, func(a, b seat) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.SerialNumber, b.SerialNumber), cmp.Compare(a.NodeName, b.NodeName))
	})
	for i, s := range seats {
		if i >= int(device.Spec.MaxDevices) && s.Available {
			s.refuse(reasonOverMaxDevices, "HSMDevice %s has more tokens than its maxDevices %d; others are served", device.Name, device.Spec.MaxDevices)
		}
	}
}

// since is when a device came to be as it is.
func (f *facts) since(s *sighting) time.Time {
	if p := s.previous; p != nil && p.Available == s.Available && p.Reason == s.Reason && p.LastTransitionTime != nil {
		return p.LastTransitionTime.Time
	}
	return f.stamp().Time
}

// aggregate lists the devices of a pool, and those that are available first if there
// are more than it has room for. Times move only with what they are about.
func (f *facts) aggregate(seen []*sighting) []v1alpha1.AggregatedDevice {
	var list []v1alpha1.AggregatedDevice
	for _, s := range seen {
		if f.isDropped(s) {
			continue
		}
		s.LastTransitionTime = new(metav1.NewTime(f.since(s)))
		if p := s.previous; p != nil {
			told := s.LastSeen
			if s.LastSeen = p.LastSeen; !equality.Semantic.DeepEqual(s.AggregatedDevice, *p) {
				s.LastSeen = told
			}
		}
		list = append(list, s.AggregatedDevice)
	}
	bySerial := func(a, b v1alpha1.AggregatedDevice) int {
		return cmp.Or(cmp.Compare(a.SerialNumber, b.SerialNumber), cmp.Compare(a.NodeName, b.NodeName),
			cmp.Compare(a.DevicePath, b.DevicePath), cmp.Compare(a.HSMDeviceName, b.HSMDeviceName))
	}
	slices.SortFunc(list, bySerial)
	if len(list) > maxListed {
		slices.SortStableFunc(list, func(a, b v1alpha1.AggregatedDevice) int {
			switch {
			case a.Available == b.Available:
				return 0
			case a.Available:
				return -1
			}
			return 1
		})
		list = list[:maxListed]
		slices.SortFunc(list, bySerial)
	}
	return list
}
