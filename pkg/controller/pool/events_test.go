// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// TestTransitions shows which changes make Events, and which do not.
func TestTransitions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, "pico").served()
	last := w.pool("pico").Status
	step := func(what string, want ...string) {
		t.Helper()
		w.decide()
		status := w.pool("pico").Status
		var got []string
		for _, h := range transitions(&last, &status) {
			got = append(got, h.eventType+" "+h.reason)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
		last = status
	}
	step("nothing yet", "Normal PhaseChanged")
	w.report(w.found("pico", "node-1", "A", "!SerialMissing"))
	step("two are found", "Warning DeviceRefused", "Normal DeviceAppeared", "Warning PhaseChanged")
	w.report(w.found("pico", "node-1", "A"))
	step("one is left", "Normal DeviceRemoved", "Normal PhaseChanged")
	w.agent("A", "node-1", serving(1))
	step("it is served", "Normal TokenServed", "Normal PhaseChanged")
	w.agent("A", "node-1", serving(2))
	step("it is written to")
	w.agent("A", "node-1", failing(agentv1.Reason_REASON_TOKEN_ABSENT))
	step("its agent misses it", "Warning TokenNotServed", "Warning PhaseChanged")
	w.report(w.found("pico", "node-1"))
	step("it is unplugged", "Warning DeviceLost")
	w.pass(2 * grace)
	w.report(w.found("pico", "node-1"))
	step("it is forgotten", "Normal DeviceRemoved")
	w.report(w.found("pico", "node-1", "A"))
	step("it is back", "Normal DeviceAppeared")
}

// TestConditions shows which conditions speak against a pool.
func TestConditions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*world)
		want   string
	}{
		"all is well": {func(*world) {}, "AgentsServing=AllServed DevicesAvailable=AllAvailable Ready=Ready Reporting=AllReport"},
		"a pod is missing": {
			func(w *world) { w.daemonSet.Status.DesiredNumberScheduled = 2 },
			"AgentsServing=AllServed DevicesAvailable=AllAvailable Ready=PodsMissing! Reporting=PodsMissing!",
		},
		"a pod is new": {func(w *world) {
			w.daemonSet.Status.DesiredNumberScheduled = 2
			w.pod("new", "node-2")
		}, "AgentsServing=AllServed DevicesAvailable=AllAvailable Ready=PodsComing! Reporting=PodsComing!"},
		"nobody runs discovery": {
			func(w *world) { w.daemonSet = nil },
			"AgentsServing=AllServed DevicesAvailable=AllAvailable Ready=Ready Reporting=NoDiscovery!",
		},
		"discovery fails": {func(w *world) {
			entry := w.found("pico", "node-1", "A")
			entry.DiscoveryStatus, entry.Error = v1alpha1.DiscoveryStatusError, "sysfs cannot be read"
			w.report(entry)
		}, "AgentsServing=AllServed DevicesAvailable=AllAvailable Ready=Ready Reporting=DiscoveryFailed!"},
		"a device cannot be used": {
			func(w *world) { w.report(w.found("pico", "node-1", "A", "B!PermissionsDiffer")) },
			"AgentsServing=TokensNotServed! DevicesAvailable=DevicesUnavailable! Ready=DevicesUnavailable! Reporting=AllReport",
		},
		"an agent starts": {
			func(w *world) { w.agent("A", "node-1", failing(agentv1.Reason_REASON_LOADING)) },
			"AgentsServing=AgentsStarting! DevicesAvailable=AllAvailable Ready=AgentsStarting! Reporting=AllReport",
		},
		"an agent has the wrong PIN": {
			func(w *world) { w.agent("A", "node-1", failing(agentv1.Reason_REASON_PIN_REJECTED)) },
			"AgentsServing=TokensNotServed! DevicesAvailable=AllAvailable Ready=TokensNotServed! Reporting=AllReport",
		},
		"no device": {
			func(w *world) { w.pods["node-1"].Annotations = nil; w.reportBy("node-1", w.found("pico", "node-1")) },
			"AgentsServing=TokensNotServed! DevicesAvailable=DevicesUnavailable! Ready=DevicesUnavailable! Reporting=AllReport",
		},
		"no agents are wanted": {
			func(w *world) { w.devices[0].Spec.PKCS11 = nil },
			"DevicesAvailable=AllAvailable Ready=Ready Reporting=AllReport",
		},
		"no HSMDevice": {
			func(w *world) { w.devices = nil },
			"DevicesAvailable=NoHSMDevice! Ready=NoHSMDevice! Reporting=AllReport",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1, "pico").served()
			w.report(w.found("pico", "node-1", "A"))
			w.agent("A", "node-1", serving(1))
			w.decide()
			c.change(w)
			w.decide()
			var got []string
			for _, condition := range w.pool("pico").Status.Conditions {
				word := condition.Type + "=" + condition.Reason
				if condition.Status != metav1.ConditionTrue {
					word += "!"
				}
				// TestWarnings is about the others.
				if !slices.Contains([]string{v1alpha1.HSMPoolNeedsRelayout, v1alpha1.HSMPoolFirmwareKnownBad, v1alpha1.HSMPoolShortAPDUs}, condition.Type) {
					got = append(got, word)
				}
				if condition.ObservedGeneration != 1 || condition.LastTransitionTime.IsZero() {
					t.Errorf("the condition is %+v", condition)
				}
			}
			slices.Sort(got)
			if text := fmt.Sprint(got); text != "["+c.want+"]" {
				t.Errorf("the conditions are\n  %s, want\n  [%s]", text, c.want)
			}
		})
	}
}

// TestRefusals: one pod that goes on makes an Event once in a while, many pods do not make
// theirs all at once.
func TestRefusals(t *testing.T) {
	t.Parallel()
	c := newRefusals()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	pod := func(name string, version int) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(name), ResourceVersion: fmt.Sprint(version)}}
	}
	told := 0
	for version := range 100 {
		for range 3 { // Of one version there is nothing new to tell.
			if c.due(pod("one", version), "bad JSON", now) {
				told++
			}
		}
	}
	if told != 1 {
		t.Errorf("told %d times of one pod", told)
	}
	if !c.due(pod("one", 101), "another node", now) || c.due(pod("one", 102), "another node", now) || !c.due(pod("one", 103), "another node", now.Add(refusalInterval)) {
		t.Error("another fault is not told, or the same one too early, or never again")
	}
	now = now.Add(time.Hour)
	told = 0
	for i := range 100 {
		if c.due(pod(fmt.Sprint(i), 1), "bad JSON", now) {
			told++
		}
	}
	if told != refusalBurst {
		t.Errorf("told of %d pods at once, want %d", told, refusalBurst)
	}
	c.keep(nil)
	if len(c.last) != 0 {
		t.Errorf("%d pods that are gone are remembered", len(c.last))
	}
}
