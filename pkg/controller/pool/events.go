// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

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

// transition is what an Event says.
type transition struct {
	eventType, reason, message string
}

// transitions are what has changed in a pool from one status to the next.
func transitions(before, after *v1alpha1.HSMPoolStatus) []transition {
	var list []transition
	add := func(eventType, reason, format string, args ...any) {
		list = append(list, transition{eventType, reason, fmt.Sprintf(format, args...)})
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
			add(corev1.EventTypeNormal, eventDeviceAppeared, "%s is available on node %s as %s", deviceLabel(device), device.NodeName, device.DevicePath)
		case !device.Available && was != nil && was.Available:
			add(corev1.EventTypeWarning, eventDeviceLost, "%s on node %s is not available: %s: %s", deviceLabel(device), device.NodeName, device.Reason, device.Message)
		case !device.Available && (was == nil || was.Reason != device.Reason):
			add(corev1.EventTypeWarning, eventDeviceRefused, "%s on node %s cannot be used: %s: %s", deviceLabel(device), device.NodeName, device.Reason, device.Message)
		}
	}
	for i := range before.AggregatedDevices {
		if device := &before.AggregatedDevices[i]; old[placeOf(device)] == device {
			add(corev1.EventTypeNormal, eventDeviceRemoved, "%s on node %s is not listed any more", deviceLabel(device), device.NodeName)
		}
	}
	for i := range after.Members {
		member := &after.Members[i]
		was := findMember(before, member.SerialNumber)
		serves := member.State == v1alpha1.MemberStateServing
		switch {
		case serves && (was == nil || was.State != v1alpha1.MemberStateServing):
			add(corev1.EventTypeNormal, eventTokenServed, "token %s is served by its agent on node %s", member.SerialNumber, member.NodeName)
		case !serves && was != nil && was.State == v1alpha1.MemberStateServing:
			add(corev1.EventTypeWarning, eventTokenNotServed, "token %s is not served: %s: %s", member.SerialNumber, member.State, member.Message)
		}
	}
	if after.Phase != before.Phase {
		eventType := corev1.EventTypeNormal
		if after.Phase == v1alpha1.PoolPhasePartial || after.Phase == v1alpha1.PoolPhaseError {
			eventType = corev1.EventTypeWarning
		}
		from := before.Phase
		if from == "" {
			from = "new"
		}
		add(eventType, eventPhaseChanged, "the pool was %s and is %s: %d of %d tokens are available", from, after.Phase, after.AvailableDevices, after.TotalDevices)
	}
	return list
}
