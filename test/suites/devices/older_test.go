// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/softhsm"
)

// older is a cluster without Dynamic Resource Allocation: the oldest that the binaries can
// emulate, in which that can be left out.
var older = controlplane.Options{
	ComponentArgs: []string{
		"--emulated-version=1.34",
		"--feature-gates=DynamicResourceAllocation=false,DRAAdminAccess=false,DRAPrioritizedList=false,DRASchedulerFilterTimeout=false",
	},
	APIServerArgs: []string{"--runtime-config=resource.k8s.io/v1=false"},
}

// TestOlderCluster has agents given their tokens by a device plugin, where nothing of
// resource.k8s.io is served.
func TestOlderCluster(t *testing.T) {
	ctx := t.Context()
	w := newWorldOf(ctx, t, older, "test/suites/devices/testdata/older", "node-1")
	groups, err := w.core.Discovery().ServerGroups()
	must(t, err)
	for _, group := range groups.Groups {
		if group.Name == "resource.k8s.io" {
			t.Fatalf("the cluster serves %s", group.PreferredVersion.GroupVersion)
		}
	}
	library, err := softhsm.Module()
	must(t, err)
	w.kubectl(ctx, t, pin, "create", "secret", "generic", "pin", "-n", system, "--from-file=pin=/dev/stdin")
	w.kubectl(ctx, t, strings.ReplaceAll(hsmDevice, "LIBRARY", library), "apply", "-f", "-")
	w.pool, w.observer = sticks, &observer{}

	first, second := newStick(t, w), newStick(t, w)
	first.plug(t, w.nodes["node-1"], "1-1")
	w.write(ctx, t, "1") // Now its store is the cluster's.
	second.plug(t, w.nodes["node-1"], "1-2")
	w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
	w.given(ctx, t, first)
	w.given(ctx, t, second)

	// Plugged in again, it has another device file, which kubelet gives to a new pod only.
	first.pull(t)
	w.available(ctx, t, first, false)
	first.plug(t, w.nodes["node-1"], "1-3")
	w.given(ctx, t, first)
	w.readable(ctx, t, "1")
	w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
	w.given(ctx, t, second)
	rights(t, w)
}

// given waits until there is one pod of the token's agent, and that was given the device file
// of the token where it is now.
func (w *world) given(ctx context.Context, t *testing.T, s *stick) {
	t.Helper()
	name := attribute.DeviceName(s.Serial)
	want := fmt.Sprintf("pcscd %s %s [/dev/bus/usb/001/%03d]", attribute.ResourceName(name), name, s.number)
	eventually(ctx, t, "the agent is given its token", func(ctx context.Context) error {
		pods, err := w.core.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: agentSelector + "=hsm-agent-" + name})
		if err != nil {
			return err
		}
		var got []string
		for _, pod := range pods.Items {
			for _, allocation := range s.at.Allocations(pod.UID) {
				got = append(got, fmt.Sprintf("%s %s %s %s", allocation.Container, allocation.Resource, allocation.Device, allocation.Paths))
			}
		}
		if len(pods.Items) != 1 || pods.Items[0].Status.Phase != corev1.PodRunning || strings.Join(got, "; ") != want {
			return fmt.Errorf("%d pods were given %q, want %q", len(pods.Items), got, want)
		}
		return nil
	})
}
