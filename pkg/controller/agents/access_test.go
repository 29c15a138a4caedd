// SPDX-License-Identifier: Apache-2.0

package agents_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// With a device plugin, an agent asks for the resource that is its token, and touches
// nothing of Dynamic Resource Allocation.
func (r *rig) testPlugin() {
	const serial, file = "E6614C311B4FC700", "BY-ITS-FILE"
	name := agentname.For(serial)
	must(r.t, r.client.Create(r.ctx, device(system, "plugged", v1alpha1.PINSecretReference{Name: "pico-pin"})))
	byFile := device(system, "files", v1alpha1.PINSecretReference{Name: "pico-pin"})
	byFile.Spec.Discovery = &v1alpha1.Discovery{DevicePath: &v1alpha1.DevicePathDiscovery{Path: "/dev/ttyACM*"}}
	must(r.t, r.client.Create(r.ctx, byFile))

	r.report(system, "plugged", seen(serial, "node-1", "/dev/bus/usb/001/007"))
	r.until("the agent's pod", func() error { return r.podOn(name, "node-1", "/dev/bus/usb/001/007") })
	if got := r.given(name); got != "pcscd has 1 of hsm.j5t.io/e6614c311b4fc700-6167c5ad72" {
		r.t.Error(got)
	}
	for what := range maps.Keys(r.of(serial)) {
		if strings.Contains(what, "ResourceClaim") {
			r.t.Errorf("there is %s", what)
		}
	}
	r.report(system, "files", seen(file, "node-1", "/dev/ttyACM0"))
	r.until("the pod of the other agent", func() error { return r.podOn(agentname.For(file), "node-1", "/dev/ttyACM0") })
	if got := r.given(agentname.For(file)); got != "agent has 1 of hsm.j5t.io/byitsfile-ac6ea85651" {
		r.t.Error(got)
	}

	// Kubelet asks for the device file when a pod is made: another file, another pod.
	before := r.pods(name)
	r.report(system, "plugged", seen(serial, "node-1", "/dev/bus/usb/001/009"))
	r.until("a new pod for the new path", func() error {
		if err := r.podOn(name, "node-1", "/dev/bus/usb/001/009"); err != nil {
			return err
		}
		for _, pod := range r.pods(name) {
			if slices.ContainsFunc(before, func(old corev1.Pod) bool { return old.UID == pod.UID }) {
				return fmt.Errorf("pod %s is there still", pod.Name)
			}
		}
		return nil
	})
}

func (r *rig) pods(agent string) []corev1.Pod {
	r.t.Helper()
	pods := &corev1.PodList{}
	must(r.t, r.client.List(r.ctx, pods, client.InNamespace(system), client.MatchingLabels{agentname.ObjectLabel: agent}))
	return pods.Items
}

// given tells which containers of an agent's pod are given a device, and how.
func (r *rig) given(agent string) string {
	r.t.Helper()
	var given []string
	for _, pod := range r.pods(agent) {
		for _, container := range append(pod.Spec.Containers, pod.Spec.InitContainers...) {
			for _, claim := range container.Resources.Claims {
				given = append(given, container.Name+" claims the "+claim.Name)
			}
			for name, quantity := range container.Resources.Limits {
				if strings.Contains(string(name), "/") {
					given = append(given, fmt.Sprintf("%s has %s of %s", container.Name, &quantity, name))
				}
			}
		}
	}
	return strings.Join(given, ", ")
}
