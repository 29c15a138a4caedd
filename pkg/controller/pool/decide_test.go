// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// runStories runs each as a test of its name.
func runStories(t *testing.T, stories map[string]func(*testing.T)) {
	t.Helper()
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			story(t)
		})
	}
}

func TestPhases(t *testing.T) {
	t.Parallel()
	runStories(t, map[string]func(*testing.T){
		"phases of a new pool": func(t *testing.T) {
			w := newWorld(t, 3, "pico")
			w.pool("pico").CreationTimestamp = metav1.NewTime(w.now)
			w.want("pico", "Pending 0/0 0/3")
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Aggregating 1/1 1/3 A@1")
			w.report(w.found("pico", "node-2"))
			w.want("pico", "Aggregating 1/1 2/3 A@1")
			w.report(w.found("pico", "node-3", "B"))
			w.want("pico", "Ready 2/2 3/3 A@1 B@3")
		},
		"a pod that never reports": func(t *testing.T) {
			w := newWorld(t, 2, "pico")
			w.pool("pico").CreationTimestamp = metav1.NewTime(w.now)
			w.pod("node-2", "node-2")
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Aggregating 1/1 1/2 A@1")
			w.pass(4 * time.Minute)
			w.report(w.found("pico", "node-1", "A"))
			w.pass(time.Minute)
			w.want("pico", "Partial 1/1 1/2 A@1")
		},
		"nothing plugged in": func(t *testing.T) {
			w := newWorld(t, 1, "pico")
			w.report(w.found("pico", "node-1"))
			w.want("pico", "Error 0/0 1/1")
		},
		"nodes that are not selected are no lack": func(t *testing.T) {
			w := newWorld(t, 3, "pico")
			w.report(w.found("pico", "node-1", "A"))
			for _, node := range []string{"node-2", "node-3"} {
				entry := w.found("pico", node)
				entry.NodeSelected = false
				w.report(entry)
			}
			w.want("pico", "Ready 1/1 1/1 A@1")
			// Nor are they while their pods are replaced.
			delete(w.pods, "node-2")
			w.pod("new", "node-2")
			w.want("pico", "Ready 1/1 1/1 A@1")
		},
		"a device that cannot be used": func(t *testing.T) {
			w := newWorld(t, 1, "pico")
			w.report(w.found("pico", "node-1", "A", "!SerialMissing"))
			w.want("pico", "Partial 1/2 1/1 /dev/bus/usb/001/003@1!SerialMissing A@1")
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Ready 1/1 1/1 A@1")
		},
	})
}

func TestDevicesMove(t *testing.T) {
	t.Parallel()
	runStories(t, map[string]func(*testing.T){
		"unplugged, plugged in elsewhere": func(t *testing.T) {
			w := newWorld(t, 2, "pico")
			w.report(w.found("pico", "node-1", "A", "B"))
			w.report(w.found("pico", "node-2"))
			w.want("pico", "Ready 2/2 2/2 A@1 B@1")
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Partial 1/2 2/2 A@1 B@1!Unplugged")
			w.report(w.found("pico", "node-2", "B"))
			w.want("pico", "Ready 2/2 2/2 A@1 B@2")
			w.report(w.found("pico", "node-2"))
			w.want("pico", "Partial 1/2 2/2 A@1 B@2!Unplugged")
			for range 3 {
				w.pass(grace/3 - time.Second)
				w.report(w.found("pico", "node-1", "A"))
				w.report(w.found("pico", "node-2"))
				w.want("pico", "Partial 1/2 2/2 A@1 B@2!Unplugged")
			}
			w.pass(3 * time.Second)
			w.want("pico", "Ready 1/1 2/2 A@1")
		},
		"plugged in again on another bus": func(t *testing.T) {
			w := newWorld(t, 1, "pico")
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Ready 1/1 1/1 A@1")
			entry := w.found("pico", "node-1", "A")
			entry.DiscoveredDevices[0].DevicePath = "/dev/bus/usb/002/009"
			w.report(entry)
			w.want("pico", "Ready 1/1 1/1 A@1")
			if got := w.pool("pico").Status.AggregatedDevices[0].DevicePath; got != "/dev/bus/usb/002/009" {
				t.Errorf("the path is %s", got)
			}
		},
		"absence in a report of an error means nothing": func(t *testing.T) {
			w := newWorld(t, 1, "pico")
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Ready 1/1 1/1 A@1")
			entry := w.found("pico", "node-1")
			entry.DiscoveryStatus, entry.Error = v1alpha1.DiscoveryStatusError, "sysfs cannot be read"
			w.report(entry)
			w.want("pico", "Ready 1/1 1/1 A@1")
		},
	})
}

func TestNodesLeave(t *testing.T) {
	t.Parallel()
	runStories(t, map[string]func(*testing.T){
		"node down": func(t *testing.T) {
			w := newWorld(t, 2, "pico")
			w.report(w.found("pico", "node-1", "A"))
			w.pass(2 * time.Minute)
			w.report(w.found("pico", "node-2", "B"))
			w.want("pico", "Ready 2/2 2/2 A@1 B@2")
			w.pass(3*time.Minute - time.Second)
			w.want("pico", "Ready 2/2 2/2 A@1 B@2")
			w.report(w.found("pico", "node-2", "B"))
			w.pass(2 * time.Second)
			w.want("pico", "Partial 1/2 1/2 A@1!NodeNotReporting B@2")
			// It stays listed as long as the node has a pod.
			for range 20 {
				w.pass(grace / 2)
				w.report(w.found("pico", "node-2", "B"))
			}
			w.want("pico", "Partial 1/2 1/2 A@1!NodeNotReporting B@2")
			// Its token is carried to the other node.
			w.report(w.found("pico", "node-2", "A", "B"))
			w.want("pico", "Partial 2/2 1/2 A@2 B@2")
			// The node is removed.
			delete(w.pods, "node-1")
			w.daemonSet.Status.DesiredNumberScheduled = 1
			w.want("pico", "Ready 2/2 1/1 A@2 B@2")
		},
		"node removed": func(t *testing.T) {
			w := newWorld(t, 2, "pico")
			w.report(w.found("pico", "node-1", "A"))
			w.report(w.found("pico", "node-2", "B"))
			w.want("pico", "Ready 2/2 2/2 A@1 B@2")
			delete(w.pods, "node-1")
			w.daemonSet.Status.DesiredNumberScheduled = 1
			for range 2 {
				w.want("pico", "Ready 2/2 2/1 A@1 B@2")
				w.pass(grace/2 - time.Second)
				w.report(w.found("pico", "node-2", "B"))
			}
			w.pass(5 * time.Second)
			w.want("pico", "Partial 1/2 1/1 A@1!NodeNotReporting B@2")
			for range 3 {
				w.pass(grace / 2)
				w.report(w.found("pico", "node-2", "B"))
			}
			w.want("pico", "Ready 1/1 1/1 B@2")
		},
		"a pod that is not ready for long": func(t *testing.T) {
			w := newWorld(t, 1, "pico")
			w.report(w.found("pico", "node-1", "A"))
			w.pods["node-1"].Status.Conditions = notReady(w.now)
			w.want("pico", "Ready 1/1 1/1 A@1")
			w.pass(grace - time.Second)
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Ready 1/1 1/1 A@1")
			w.pass(time.Second)
			w.want("pico", "Error 0/1 0/1 A@1!NodeNotReporting")
		},
		"nobody runs discovery any more": func(t *testing.T) {
			w := newWorld(t, 1, "pico")
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Ready 1/1 1/1 A@1")
			w.daemonSet = nil
			clear(w.pods)
			w.want("pico", "Ready 1/1 1/0 A@1")
			w.pass(10 * grace)
			w.want("pico", "Error 0/1 0/0 A@1!NodeNotReporting")
		},
	})
}

func TestSerialsAndSeats(t *testing.T) {
	t.Parallel()
	runStories(t, map[string]func(*testing.T){
		"the same serial number on two nodes": func(t *testing.T) {
			w := newWorld(t, 2, "pico").served()
			w.report(w.found("pico", "node-1", "A"))
			w.report(w.found("pico", "node-2"))
			w.agent("A", "node-1", serving(1))
			w.want("pico", "Ready 1/1 2/2 A@1 | A@1:Serving")
			w.report(w.found("pico", "node-2", "A"))
			w.want("pico", "Error 0/2 2/2 A@1!SerialAmbiguous A@2!SerialAmbiguous | A@1:SerialAmbiguous(no endpoint)")
			w.report(w.found("pico", "node-1"))
			w.want("pico", "Ready 1/1 2/2 A@2 | A@1:Serving")
		},
		"the same serial number in two pools": func(t *testing.T) {
			w := newWorld(t, 2, "pico", "nitro")
			w.report(w.found("pico", "node-1", "A"), w.found("nitro", "node-1", "N"))
			w.report(w.found("nitro", "node-2", "A"), w.found("pico", "node-2"))
			w.want("pico", "Error 0/1 2/2 A@1!SerialAmbiguous")
			w.want("nitro", "Partial 1/2 2/2 A@2!SerialAmbiguous N@1")
		},
		"a token that comes back from a node that is down": func(t *testing.T) {
			w := newWorld(t, 2, "pico")
			w.report(w.found("pico", "node-1", "A"))
			w.report(w.found("pico", "node-2"))
			w.want("pico", "Ready 1/1 2/2 A@1")
			w.pass(grace - time.Second)
			w.report(w.found("pico", "node-2", "A"))
			w.want("pico", "Error 0/2 2/2 A@1!SerialAmbiguous A@2!SerialAmbiguous")
			w.pass(time.Second)
			w.want("pico", "Partial 1/1 1/2 A@2")
		},
		"more than maxDevices": func(t *testing.T) {
			w := newWorld(t, 2, "pico").served()
			w.devices[0].Spec.MaxDevices = 2
			w.report(w.found("pico", "node-1", "C"))
			w.report(w.found("pico", "node-2", "D"))
			w.want("pico", "Aggregating 2/2 2/2 C@1 D@2 | C@1:Starting(no endpoint) D@2:Starting(no endpoint)")
			w.agent("C", "node-1", serving(1))
			w.agent("D", "node-2", serving(1))
			w.want("pico", "Ready 2/2 2/2 C@1 D@2 | C@1:Serving D@2:Serving")
			w.report(w.found("pico", "node-1", "A", "B", "C"))
			w.want("pico", "Partial 2/4 2/2 A@1!OverMaxDevices B@1!OverMaxDevices C@1 D@2 | C@1:Serving D@2:Serving")
			// One that is gone for a moment keeps its place.
			w.report(w.found("pico", "node-1", "A", "B"))
			w.want("pico", "Partial 1/4 2/2 A@1!OverMaxDevices B@1!OverMaxDevices C@1!Unplugged D@2 | C@1:Serving D@2:Serving")
			w.report(w.found("pico", "node-1", "A", "B", "C"))
			w.want("pico", "Partial 2/4 2/2 A@1!OverMaxDevices B@1!OverMaxDevices C@1 D@2 | C@1:Serving D@2:Serving")
			w.report(w.found("pico", "node-1", "A", "B"))
			w.want("pico", "Partial 1/4 2/2 A@1!OverMaxDevices B@1!OverMaxDevices C@1!Unplugged D@2 | C@1:Serving D@2:Serving")
			w.pass(replugTime)
			w.want("pico", "Partial 2/4 2/2 A@1 B@1!OverMaxDevices C@1!Unplugged D@2 | A@1:Starting(no endpoint) C@1:Serving D@2:Serving")
		},
		"HSMDevices that a person adds to a pool": func(t *testing.T) {
			w := newWorld(t, 1, "pico", "nitro")
			w.report(w.found("pico", "node-1", "A"), w.found("nitro", "node-1", "N"))
			w.want("pico", "Ready 1/1 1/1 A@1")
			w.want("nitro", "Ready 1/1 1/1 N@1")
			w.pool("pico").Spec.HSMDeviceRefs = []string{"pico", "nitro"}
			w.want("pico", "Ready 2/2 1/1 A@1 N@1")
			w.want("nitro", "Error 0/0 0/0")
		},
		"an HSMDevice that was deleted": func(t *testing.T) {
			w := newWorld(t, 1, "pico")
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Ready 1/1 1/1 A@1")
			w.devices = nil
			w.want("pico", "Error 0/0 0/0")
		},
	})
}

func TestAgentStates(t *testing.T) {
	t.Parallel()
	runStories(t, map[string]func(*testing.T){
		"states of an agent": func(t *testing.T) {
			w := newWorld(t, 1, "pico").served()
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Aggregating 1/1 1/1 A@1 | A@1:Starting(no endpoint)")
			w.agent("A", "node-1", nil)
			w.want("pico", "Aggregating 1/1 1/1 A@1 | A@1:Starting")
			w.agent("A", "node-1", &answer{err: errNotDiscovery})
			w.want("pico", "Aggregating 1/1 1/1 A@1 | A@1:Starting")
			w.agent("A", "node-1", failing(agentv1.Reason_REASON_LOADING))
			w.want("pico", "Aggregating 1/1 1/1 A@1 | A@1:Loading")
			w.agent("A", "node-1", serving(7))
			w.want("pico", "Ready 1/1 1/1 A@1 | A@1:Serving")
			w.agent("A", "node-1", &answer{status: serving(7).status, err: errNotDiscovery})
			w.want("pico", "Error 1/1 1/1 A@1 | A@1:AgentUnreachable")
			for reason, state := range map[agentv1.Reason]string{
				agentv1.Reason_REASON_TOKEN_ABSENT: "TokenAbsent", agentv1.Reason_REASON_TOKEN_FOREIGN: "TokenForeign",
				agentv1.Reason_REASON_PIN_REJECTED: "PinRejected", agentv1.Reason_REASON_PIN_LOCKED: "PinLocked",
				agentv1.Reason_REASON_TOKEN_BLANK: "TokenBlank", agentv1.Reason_REASON_CORRUPT: "Corrupt", agentv1.Reason_REASON_STATE_DIR: "StateDir",
			} {
				w.agent("A", "node-1", failing(reason))
				w.want("pico", "Error 1/1 1/1 A@1 | A@1:"+state)
			}
		},
		"an agent that never comes up": func(t *testing.T) {
			w := newWorld(t, 1, "pico").served()
			w.report(w.found("pico", "node-1", "A"))
			w.want("pico", "Aggregating 1/1 1/1 A@1 | A@1:Starting(no endpoint)")
			w.pass(grace - time.Second)
			w.report(w.found("pico", "node-1", "A"))
			w.pass(time.Second)
			w.want("pico", "Error 1/1 1/1 A@1 | A@1:Starting(no endpoint)")
		},
		"a member stays until its device and its agent are gone": func(t *testing.T) {
			w := newWorld(t, 1, "pico").served()
			w.report(w.found("pico", "node-1", "A", "B"))
			w.agent("A", "node-1", serving(1))
			w.agent("B", "node-1", serving(1))
			w.want("pico", "Ready 2/2 1/1 A@1 B@1 | A@1:Serving B@1:Serving")
			w.report(w.found("pico", "node-1", "B"))
			w.agent("A", "node-1", failing(agentv1.Reason_REASON_TOKEN_ABSENT))
			w.want("pico", "Partial 1/2 1/1 A@1!Unplugged B@1 | A@1:TokenAbsent B@1:Serving")
			w.pass(grace - time.Second)
			w.report(w.found("pico", "node-1", "B"))
			w.pass(time.Second)
			w.want("pico", "Ready 1/1 1/1 B@1 | A@1:TokenAbsent B@1:Serving")
			w.agent("A", "", nil)
			w.want("pico", "Ready 1/1 1/1 B@1 | B@1:Serving")
		},
		"an agent moves": func(t *testing.T) {
			w := newWorld(t, 2, "pico").served()
			w.report(w.found("pico", "node-1", "A"))
			w.report(w.found("pico", "node-2"))
			w.agent("A", "node-1", serving(1))
			w.want("pico", "Ready 1/1 2/2 A@1 | A@1:Serving")
			w.report(w.found("pico", "node-1"))
			w.agent("A", "", nil)
			w.want("pico", "Error 0/1 2/2 A@1!Unplugged | A@1:Unplugged(no endpoint)")
			w.report(w.found("pico", "node-2", "A"))
			w.agent("A", "node-2", nil)
			w.want("pico", "Aggregating 1/1 2/2 A@2 | A@2:Starting")
		},
	})
}
