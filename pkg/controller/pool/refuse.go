// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// replugTime is how long a token that is gone keeps its place among maxDevices: a device
// that is enumerated anew is back within it.
const replugTime = 30 * time.Second

// refuseDuplicates refuses all tokens that have the same serial number, wherever they are.
// One that is absent is no duplicate: it was carried to where it is now.
func (f *facts) refuseDuplicates(all []*observation) {
	bySerial := map[string][]*observation{}
	for _, o := range all {
		if o.present && o.SerialNumber != "" {
			bySerial[o.SerialNumber] = append(bySerial[o.SerialNumber], o)
		}
	}
	for _, same := range bySerial {
		if len(same) == 1 {
			continue
		}
		places := make([]string, len(same))
		for i, o := range same {
			places[i] = o.NodeName + " (HSMDevice " + o.HSMDeviceName + ")"
		}
		slices.Sort(places)
		for _, o := range same {
			o.refuse(reasonSerialAmbiguous, "%d tokens have this serial number, on the nodes %s; unplug all but one", len(same), strings.Join(places, ", "))
		}
	}
	for _, o := range all {
		if o.absent && len(bySerial[o.SerialNumber]) > 0 {
			o.dropAt = f.now // It is listed where it is now.
		}
	}
}

// refuseSurplus refuses the devices beyond maxDevices. First come those that are available
// already, then those that have an agent.
func (f *facts) refuseSurplus(d *decision, device *v1alpha1.HSMDevice, observed []*observation) {
	type candidate struct {
		*observation
		rank int
	}
	var candidates []candidate
	for _, o := range observed {
		if o.HSMDeviceName != device.Name || f.isDropped(o) {
			continue
		}
		keepsPlace := o.Available && o.previous != nil && o.previous.Available
		if o.absent {
			until := f.since(o).Add(replugTime)
			if keepsPlace = f.now.Before(until); keepsPlace {
				d.recheckAt(until)
			}
		}
		if !o.Available && !keepsPlace {
			continue
		}
		_, hasAgent := f.agentOf(o.SerialNumber)
		rank := 0
		if !keepsPlace {
			rank += 2
		}
		if !hasAgent {
			rank++
		}
		candidates = append(candidates, candidate{o, rank})
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.SerialNumber, b.SerialNumber), cmp.Compare(a.NodeName, b.NodeName))
	})
	for i, c := range candidates {
		if i >= int(device.Spec.MaxDevices) && c.Available {
			c.refuse(reasonOverMaxDevices, "HSMDevice %s has more tokens than its maxDevices %d; others are served", device.Name, device.Spec.MaxDevices)
		}
	}
}
