// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// maxListed is how many devices the status of a pool has room for: a pool is kept in a
// ConfigMap.
const maxListed = 500

// since is when a device came to be as it is.
func (f *facts) since(o *observation) time.Time {
	if p := o.previous; p != nil && p.Available == o.Available && p.Reason == o.Reason && p.LastTransitionTime != nil {
		return p.LastTransitionTime.Time
	}
	return timestamp(f.now).Time
}

// aggregate lists the devices of a pool. If there are more than it has room for, those
// that are available come first. A time is written only when what it is the time of has
// changed.
func (f *facts) aggregate(observed []*observation) []v1alpha1.AggregatedDevice {
	var list []v1alpha1.AggregatedDevice
	for _, o := range observed {
		if f.isDropped(o) {
			continue
		}
		o.LastTransitionTime = new(metav1.NewTime(f.since(o)))
		if p := o.previous; p != nil {
			lastSeen := o.LastSeen
			if o.LastSeen = p.LastSeen; !equality.Semantic.DeepEqual(o.AggregatedDevice, *p) {
				o.LastSeen = lastSeen
			}
		}
		list = append(list, o.AggregatedDevice)
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

// deviceLabel names a device in messages.
func deviceLabel(device *v1alpha1.AggregatedDevice) string {
	if device.SerialNumber != "" {
		return "token " + device.SerialNumber
	}
	return "device " + device.DevicePath
}
