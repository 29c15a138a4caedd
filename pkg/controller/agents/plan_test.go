// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

const system = "hsm-system"

var (
	start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	pico  = types.NamespacedName{Namespace: system, Name: "pico"}
	other = types.NamespacedName{Namespace: "team", Name: "other"}
)

func at(device types.NamespacedName, node, path string) place {
	return place{device: device, node: node, path: path}
}

// world is one HSMDevice pico with agents and a gracePeriod of a minute, and what
// is seen.
type world struct {
	facts facts
}

func newWorld(deployed ...agent) *world {
	served := v1alpha1.HSMDeviceSpec{PKCS11: &v1alpha1.PKCS11{}}
	return &world{facts{
		now: start,
		devices: map[types.NamespacedName]*v1alpha1.HSMDevice{
			pico:  {ObjectMeta: metav1.ObjectMeta{Namespace: pico.Namespace, Name: pico.Name}, Spec: served},
			other: {ObjectMeta: metav1.ObjectMeta{Namespace: other.Namespace, Name: other.Name}, Spec: served},
		},
		pools: []*v1alpha1.HSMPool{{
			ObjectMeta: metav1.ObjectMeta{Namespace: pico.Namespace, Name: pico.Name},
			Spec:       v1alpha1.HSMPoolSpec{HSMDeviceRefs: []string{pico.Name}, GracePeriod: &metav1.Duration{Duration: time.Minute}},
		}},
		deployed: deployed,
	}}
}

// sees adds a token to the pool of its HSMDevice.
func (w *world) sees(serial string, p place, available bool) *world {
	status := v1alpha1.HSMPoolStatus{AggregatedDevices: []v1alpha1.AggregatedDevice{{
		SerialNumber: serial, NodeName: p.node, DevicePath: p.path, HSMDeviceName: p.device.Name, Available: available,
	}}}
	if p.device == pico {
		w.facts.pools[0].Status.AggregatedDevices = append(w.facts.pools[0].Status.AggregatedDevices, status.AggregatedDevices...)
		return w
	}
	w.facts.pools = append(w.facts.pools, &v1alpha1.HSMPool{ObjectMeta: metav1.ObjectMeta{Namespace: p.device.Namespace, Name: p.device.Name}, Status: status})
	return w
}

func (w *world) hears(serial string, state v1alpha1.MemberState) *world {
	w.facts.pools[0].Status.Members = append(w.facts.pools[0].Status.Members, v1alpha1.PoolMember{SerialNumber: serial, State: state})
	return w
}

func (w *world) without(device types.NamespacedName) *world {
	delete(w.facts.devices, device)
	return w
}

func TestPlan(t *testing.T) {
	t.Parallel()
	here, moved, again := at(pico, "node-1", "/dev/a"), at(pico, "node-2", "/dev/a"), at(pico, "node-1", "/dev/b")
	there := at(other, "node-2", "/dev/a")
	runs := agent{serial: "S", place: here}
	since := func(d time.Duration) agent { return agent{serial: "S", place: here, absentSince: start.Add(-d)} }
	unserved := newWorld().sees("S", here, true)
	unserved.facts.devices[pico].Spec.PKCS11 = nil
	deleted := newWorld(runs).sees("S", here, true)
	deleted.facts.devices[pico].DeletionTimestamp = &metav1.Time{Time: start}

	for name, c := range map[string]struct {
		world *world
		want  []agent
		again time.Duration // From now; 0: not at all.
		notes []string
	}{
		"nothing":                          {newWorld(), nil, 0, nil},
		"a new token":                      {newWorld().sees("S", here, true), []agent{runs}, 0, nil},
		"no serial number":                 {newWorld().sees("", here, true), nil, 0, nil},
		"one that cannot be used":          {newWorld().sees("S", here, false), nil, 0, nil},
		"no pkcs11":                        {unserved, nil, 0, nil},
		"no HSMDevice":                     {newWorld().sees("S", here, true).without(pico), nil, 0, nil},
		"as before":                        {newWorld(runs).sees("S", here, true), []agent{runs}, 0, nil},
		"enumerated anew":                  {newWorld(runs).sees("S", again, true), []agent{{serial: "S", place: again}}, 0, nil},
		"moved":                            {newWorld(runs).sees("S", here, false).sees("S", moved, true), []agent{{serial: "S", place: moved}}, 0, nil},
		"of another HSMDevice now":         {newWorld(runs).sees("S", there, true), []agent{{serial: "S", place: there}}, 0, nil},
		"listed by two pools":              {newWorld().sees("S", here, true).sees("S", here, true), []agent{runs}, 0, nil},
		"twice, and new":                   {newWorld().sees("S", here, true).sees("S", there, true), nil, 0, []string{"SerialAmbiguous", "SerialAmbiguous"}},
		"twice, and served":                {newWorld(runs).sees("S", here, true).sees("S", there, true), []agent{runs}, 0, []string{"SerialAmbiguous", "SerialAmbiguous"}},
		"just gone":                        {newWorld(runs), []agent{since(0)}, time.Minute, nil},
		"just unavailable":                 {newWorld(runs).sees("S", here, false), []agent{since(0)}, time.Minute, nil},
		"gone for less than gracePeriod":   {newWorld(since(59 * time.Second)), []agent{since(59 * time.Second)}, time.Second, nil},
		"gone for gracePeriod":             {newWorld(since(time.Minute)), nil, 0, []string{"AgentRemoved"}},
		"gracePeriod of a pool by hand":    {newWorld(since(20*time.Second)).belongsTo("by-hand", 10*time.Second), nil, 0, []string{"AgentRemoved"}},
		"back in time":                     {newWorld(since(59*time.Second)).sees("S", again, true), []agent{{serial: "S", place: again}}, 0, nil},
		"serves though not seen":           {newWorld(since(time.Hour)).hears("S", v1alpha1.MemberStateServing), []agent{runs}, 0, nil},
		"answers but does not serve":       {newWorld(since(time.Hour)).hears("S", "TokenAbsent"), nil, 0, []string{"AgentRemoved"}},
		"its pool is gone for a while":     {withoutPools(newWorld(since(2 * time.Minute))), []agent{since(2 * time.Minute)}, 3 * time.Minute, nil},
		"its HSMDevice is gone":            {newWorld(runs).sees("S", here, true).without(pico), nil, 0, nil},
		"its HSMDevice is being deleted":   {deleted, nil, 0, nil},
		"serials that differ in case only": {newWorld().sees("s", here, true).sees("S", again, true), []agent{{serial: "S", place: again}, {serial: "s", place: here}}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := c.world.facts.makePlan()
			if !slices.Equal(p.desired, c.want) {
				t.Errorf("wanted: %v, want %v", p.desired, c.want)
			}
			if (c.again == 0) != p.next.IsZero() || c.again != 0 && !p.next.Equal(start.Add(c.again)) {
				t.Errorf("again at %v, want in %v", p.next, c.again)
			}
			var notes []string
			for _, n := range p.notices {
				notes = append(notes, n.reason)
			}
			if !slices.Equal(notes, c.notes) {
				t.Errorf("notes: %v, want %v", p.notices, c.notes)
			}
		})
	}
}

// belongsTo lists the HSMDevice in a pool that a person has made, with its gracePeriod.
func (w *world) belongsTo(name string, grace time.Duration) *world {
	w.facts.pools = append(w.facts.pools, &v1alpha1.HSMPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: pico.Namespace, Name: name},
		Spec:       v1alpha1.HSMPoolSpec{HSMDeviceRefs: []string{pico.Name}, GracePeriod: &metav1.Duration{Duration: grace}},
	})
	return w
}

func withoutPools(w *world) *world {
	w.facts.pools = nil
	return w
}
