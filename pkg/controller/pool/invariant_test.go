// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/report"
)

// TestInvariants lets anything happen, in any order, and looks after each step for
// what must never be.
func TestInvariants(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 3, "pico", "nitro").served()
			w.devices[0].Spec.MaxDevices = 3
			c := &chaos{world: w, Rand: rand.New(rand.NewPCG(seed, 1))}
			for range 300 {
				step := c.step()
				w.decide()
				for _, violation := range w.violations() {
					t.Fatalf("after %q: %s", step, violation)
				}
				before := slices.Clone(w.pools)
				w.decide()
				for i, pool := range w.pools {
					if !equality.Semantic.DeepEqual(before[i].Status, pool.Status) {
						t.Fatalf("after %q: deciding again makes\n%s\nof\n%s", step, show(pool), show(before[i]))
					}
				}
			}
		})
	}
}

func show(pool *v1alpha1.HSMPool) string {
	content, err := json.MarshalIndent(pool.Status, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// chaos changes a world.
type chaos struct {
	*world
	*rand.Rand
	pods int
}

// step does one thing, and says which.
func (c *chaos) step() string {
	node := fmt.Sprintf("node-%d", 1+c.IntN(3))
	serial := fmt.Sprintf("T%d", c.IntN(5))
	switch c.IntN(10) {
	case 0, 1, 2:
		pico, nitro := c.found("pico", node, c.some()...), c.found("nitro", node, c.some()...)
		if c.IntN(5) == 0 {
			pico.DiscoveryStatus = v1alpha1.DiscoveryStatusError
		}
		if c.IntN(5) == 0 {
			nitro.NodeSelected, nitro.DiscoveredDevices = false, []report.Device{}
		}
		c.reportBy(c.podOf(node), pico, nitro)
		return "report of " + node
	case 3:
		for name, pod := range c.world.pods {
			if pod.Spec.NodeName == node {
				delete(c.world.pods, name)
			}
		}
		return "no pod on " + node
	case 4:
		c.agent(serial, node, []*answer{nil, serving(c.Uint64N(100)), failing(agentv1.Reason_REASON_LOADING), {err: errNotDiscovery}}[c.IntN(4)])
		return "agent of " + serial
	case 5:
		c.agent(serial, "", nil)
		return "no agent of " + serial
	case 6:
		c.restart()
		return "restart"
	case 7:
		refs := [][]string{{"pico"}, {"pico", "nitro"}}
		c.pool("pico").Spec.HSMDeviceRefs = refs[c.IntN(2)]
		return "other hsmDeviceRefs"
	case 8:
		d := time.Duration(c.IntN(600)) * time.Second
		c.pass(d)
		return "pass " + d.String()
	}
	d := time.Duration(c.IntN(60)) * time.Second
	c.now = c.now.Add(d) // The controller is late.
	return "late by " + d.String()
}

func (c *chaos) podOf(node string) string {
	for name, pod := range c.world.pods {
		if pod.Spec.NodeName == node {
			return name
		}
	}
	c.pods++
	return fmt.Sprintf("discovery-%d", c.pods)
}

// some serial numbers, each once: a node tells of no other as usable.
func (c *chaos) some() (serials []string) {
	for i := range 5 {
		switch c.IntN(4) {
		case 0:
			serials = append(serials, fmt.Sprintf("T%d", i))
		case 1:
			if c.IntN(4) == 0 {
				serials = append(serials, fmt.Sprintf("T%d!PermissionsDiffer", i))
			}
		}
	}
	return serials
}

// violations are what must never be.
func (w *world) violations() (list []string) {
	if next := w.last.next; !next.IsZero() && !next.After(w.now) {
		list = append(list, fmt.Sprintf("the next decision is at %s, and it is %s", next, w.now))
	}
	available := map[string]string{}
	endpoints := map[string]string{}
	for _, pool := range w.pools {
		s := &pool.Status
		if s.Phase == "" || len(s.Conditions) == 0 {
			list = append(list, "pool "+pool.Name+" has no phase or conditions")
		}
		ready := slices.IndexFunc(s.Conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.HSMPoolReady && c.Status == "True" }) >= 0
		if ready != (s.Phase == v1alpha1.PoolPhaseReady) {
			list = append(list, fmt.Sprintf("pool %s is %s, and the condition Ready is %t", pool.Name, s.Phase, ready))
		}
		places, pods := map[string]bool{}, map[string]bool{}
		served := map[string]int32{}
		for _, d := range s.AggregatedDevices {
			if !slices.Contains(pool.Spec.HSMDeviceRefs, d.HSMDeviceName) {
				list = append(list, fmt.Sprintf("pool %s has a device of %s", pool.Name, d.HSMDeviceName))
			}
			place := d.HSMDeviceName + d.NodeName + d.SerialNumber
			if d.Available == (d.Reason != "") || d.LastTransitionTime == nil || d.LastSeen == nil || places[place] {
				list = append(list, fmt.Sprintf("a device is %+v", d))
			}
			places[place] = true
			if !d.Available {
				continue
			}
			served[d.HSMDeviceName]++
			if other, twice := available[d.SerialNumber]; twice {
				list = append(list, fmt.Sprintf("token %s is available on %s and %s", d.SerialNumber, other, d.NodeName))
			}
			available[d.SerialNumber] = d.NodeName
		}
		for _, device := range w.devices {
			if served[device.Name] > device.Spec.MaxDevices {
				list = append(list, fmt.Sprintf("%d devices of %s are available", served[device.Name], device.Name))
			}
		}
		for _, r := range s.ReportingPods {
			if pods[r.PodName] {
				list = append(list, "pod "+r.PodName+" is listed twice")
			}
			pods[r.PodName] = true
		}
		for _, m := range s.Members {
			if m.State == "" {
				list = append(list, fmt.Sprintf("a member is %+v", m))
			}
			if other, twice := endpoints[m.SerialNumber]; twice && m.AgentEndpoint != "" && other != "" {
				list = append(list, fmt.Sprintf("token %s is to be asked in two pools", m.SerialNumber))
			}
			endpoints[m.SerialNumber] += m.AgentEndpoint
			i := slices.IndexFunc(s.AggregatedDevices, func(d v1alpha1.AggregatedDevice) bool { return d.SerialNumber == m.SerialNumber && !d.Available })
			if i >= 0 && available[m.SerialNumber] == "" && m.AgentEndpoint != "" && !isAbsent(s.AggregatedDevices[i].Reason) {
				list = append(list, fmt.Sprintf("token %s is %s, and its agent is to be asked", m.SerialNumber, s.AggregatedDevices[i].Reason))
			}
		}
	}
	return list
}
