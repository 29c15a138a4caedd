// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// The reasons of events.
const (
	eventPhaseChanged   = "PhaseChanged"
	eventDeviceAppeared = "DeviceAppeared"
	eventDeviceLost     = "DeviceLost"
	eventDeviceRefused  = "DeviceRefused"
	eventDeviceRemoved  = "DeviceRemoved"
	eventTokenServed    = "TokenServed"
	eventTokenNotServed = "TokenNotServed"
	eventNotOwned       = "NotOwned"
	eventReportRefused  = "ReportRefused"
)

// happening is an event to be told.
type happening struct {
	kind, reason, message string
}

// happenings are what has become of a pool between two statuses.
func happenings(before, after *v1alpha1.HSMPoolStatus) []happening {
	var list []happening
	tell := func(kind, reason, format string, args ...any) {
		list = append(list, happening{kind, reason, fmt.Sprintf(format, args...)})
	}
	type place struct{ node, serial, path string }
	placeOf := func(d *v1alpha1.AggregatedDevice) place {
		if d.SerialNumber != "" {
			return place{node: d.NodeName, serial: d.SerialNumber}
		}
		return place{node: d.NodeName, path: d.DevicePath}
	}
	old := map[place]*v1alpha1.AggregatedDevice{}
	for i := range before.AggregatedDevices {
		old[placeOf(&before.AggregatedDevices[i])] = &before.AggregatedDevices[i]
	}
	for i := range after.AggregatedDevices {
		device := &after.AggregatedDevices[i]
		was := old[placeOf(device)]
		delete(old, placeOf(device))
		switch {
		case device.Available && (was == nil || !was.Available):
			tell(corev1.EventTypeNormal, eventDeviceAppeared, "%s is available on node %s as %s", called(device), device.NodeName, device.DevicePath)
		case !device.Available && was != nil && was.Available:
			tell(corev1.EventTypeWarning, eventDeviceLost, "%s on node %s is not available: %s: %s", called(device), device.NodeName, device.Reason, device.Message)
		case !device.Available && (was == nil || was.Reason != device.Reason):
			tell(corev1.EventTypeWarning, eventDeviceRefused, "%s on node %s cannot be used: %s: %s", called(device), device.NodeName, device.Reason, device.Message)
		}
	}
	for i := range before.AggregatedDevices {
		if device := &before.AggregatedDevices[i]; old[placeOf(device)] == device {
			tell(corev1.EventTypeNormal, eventDeviceRemoved, "%s on node %s is not listed any more", called(device), device.NodeName)
		}
	}
	for i := range after.Members {
		member := &after.Members[i]
		was := memberOf(before, member.SerialNumber)
		serves := member.State == v1alpha1.MemberStateServing
		switch {
		case serves && (was == nil || was.State != v1alpha1.MemberStateServing):
			tell(corev1.EventTypeNormal, eventTokenServed, "token %s is served by its agent on node %s", member.SerialNumber, member.NodeName)
		case !serves && was != nil && was.State == v1alpha1.MemberStateServing:
			tell(corev1.EventTypeWarning, eventTokenNotServed, "token %s is not served: %s: %s", member.SerialNumber, member.State, member.Message)
		}
	}
	if after.Phase != before.Phase {
		kind := corev1.EventTypeNormal
		if after.Phase == v1alpha1.PoolPhasePartial || after.Phase == v1alpha1.PoolPhaseError {
			kind = corev1.EventTypeWarning
		}
		from := before.Phase
		if from == "" {
			from = "new"
		}
		tell(kind, eventPhaseChanged, "the pool was %s and is %s: %d of %d tokens are available", from, after.Phase, after.AvailableDevices, after.TotalDevices)
	}
	return list
}

// complaints tells of reports that do not count, of each pod once in a while.
type complaints struct {
	limiter *rate.Limiter
	told    map[types.UID]complaint
}

type complaint struct {
	resourceVersion, message string
	at                       time.Time
}

const (
	// complaintInterval is the shortest time between two complaints about a pod that
	// go on in the same way; all pods together have complaintBurst at once, and then one
	// in each complaintRate.
	complaintInterval = 10 * time.Minute
	complaintBurst    = 20
	complaintRate     = 10 * time.Second
)

func newComplaints() *complaints {
	return &complaints{limiter: rate.NewLimiter(rate.Every(complaintRate), complaintBurst), told: map[types.UID]complaint{}}
}

// due tells whether to tell of a pod's report now.
func (c *complaints) due(pod *corev1.Pod, message string, now time.Time) bool {
	last, found := c.told[pod.UID]
	if found && last.resourceVersion == pod.ResourceVersion {
		return false
	}
	refusedReports.Inc()
	again := found && last.message == message && now.Before(last.at.Add(complaintInterval))
	if again || !c.limiter.AllowN(now, 1) {
		if found {
			last.resourceVersion = pod.ResourceVersion
			c.told[pod.UID] = last
		}
		return false
	}
	c.told[pod.UID] = complaint{pod.ResourceVersion, message, now}
	return true
}

// keep forgets all pods but these.
func (c *complaints) keep(pods []corev1.Pod) {
	there := map[types.UID]bool{}
	for i := range pods {
		there[pods[i].UID] = true
	}
	for uid := range c.told {
		if !there[uid] {
			delete(c.told, uid)
		}
	}
}

// refuse tells of a pod whose report does not count.
func (r *reconciler) refuse(pod *corev1.Pod, err error) {
	if !r.complaints.due(pod, err.Error(), r.clock.Now()) {
		return
	}
	klog.InfoS("A report does not count", "pod", klog.KObj(pod), "node", pod.Spec.NodeName, "reason", truncate(err.Error()))
	r.recorder.Eventf(pod, corev1.EventTypeWarning, eventReportRefused, "The device report does not count: %s", truncate(err.Error()))
}
