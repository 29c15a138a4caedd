// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/report"
)

// others is a second HSMDevice, with another product.
const others = "others"

// discoveryKills is how often a discovery pod is killed or deleted.
const discoveryKills = 20

// many puts tokens of two HSMDevices into three nodes, and lets discovery pods end at
// random: each token is in its pool, and nobody but discovery notices.
func many(ctx context.Context, t *testing.T, w *world, first *stick, device string) {
	w.kubectl(ctx, t, strings.NewReplacer("name: "+sticks, "name: "+others, `"5057"`, `"5058"`).Replace(device), "apply", "-f", "-")
	want := map[string]map[string]string{sticks: {first.Serial: "node-1"}, others: {}}
	var plugged []*stick
	put := func(pool, node string) {
		s := newStick(t, w)
		if pool == others {
			s.product = "5058"
		}
		s.plug(t, w.nodes[node], fmt.Sprintf("2-%d", len(plugged)+1))
		want[pool][s.Serial] = node
		plugged = append(plugged, s)
	}
	for _, node := range []string{"node-1", "node-2", "node-3"} {
		put(others, node)
		if node != "node-1" {
			put(sticks, node)
		}
	}
	for pool, tokens := range want {
		eventually(ctx, t, "every token is served in "+pool, func(ctx context.Context) error {
			p, err := w.hsm.HsmV1alpha1().HSMPools(system).Get(ctx, pool, metav1.GetOptions{})
			if err == nil {
				err = exactly(p, tokens)
			}
			return err
		})
	}
	before := w.agentPods(ctx, t)

	watching, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	group.Go(func() { w.watchPools(watching, t, want) })
	random := rand.New(rand.NewPCG(7, 8))
	for range discoveryKills {
		pods := w.discoveryPods(ctx, t)
		victim := pods[random.IntN(len(pods))]
		if random.IntN(2) == 0 {
			must(t, w.nodes[victim.Spec.NodeName].Kill(system, victim.Name))
			continue
		}
		must(t, w.core.CoreV1().Pods(system).Delete(ctx, victim.Name, metav1.DeleteOptions{}))
		eventually(ctx, t, "another pod reports from "+victim.Spec.NodeName, func(ctx context.Context) error {
			for _, pod := range w.discoveryPods(ctx, t) {
				if pod.Spec.NodeName == victim.Spec.NodeName && pod.UID != victim.UID && pod.Annotations[report.Annotation] != "" {
					return nil
				}
			}
			return fmt.Errorf("%s was the last", victim.Name)
		})
	}
	for _, pool := range []string{sticks, others} {
		w.pool = pool
		w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
	}
	w.pool = sticks
	stop()
	group.Wait()
	if after := w.agentPods(ctx, t); !maps.Equal(before, after) {
		t.Errorf("the agents' pods were\n%v\nand are\n%v", before, after)
	}
	w.kubectl(ctx, t, "", "delete", "hsmdevice", others, "-n", system)
	for _, s := range plugged {
		s.pull(t)
	}
}

// exactly tells what a pool lacks, or has too much. Wanted are the nodes by serial number.
func exactly(p *v1alpha1.HSMPool, want map[string]string) error {
	available, serving := map[string]string{}, map[string]string{}
	for _, device := range p.Status.AggregatedDevices {
		if device.Available {
			available[device.SerialNumber] = device.NodeName
		}
	}
	for _, member := range p.Status.Members {
		if member.State == v1alpha1.MemberStateServing {
			serving[member.SerialNumber] = member.NodeName
		}
	}
	if !maps.Equal(available, want) || !maps.Equal(serving, want) {
		return fmt.Errorf("pool %s has %v available and %v serving, want %v", p.Name, available, serving, want)
	}
	return nil
}

// watchPools wants that no status ever lacks a token.
func (w *world) watchPools(ctx context.Context, t *testing.T, want map[string]map[string]string) {
	watch, err := w.hsm.HsmV1alpha1().HSMPools(system).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Errorf("watch pools: %v", err)
		return
	}
	defer watch.Stop()
	writes := -len(want) // The first events are what there is.
	defer func() {
		fmt.Printf("figure: pool-status-writes-per-discovery-kill %.2f\n", float64(writes)/discoveryKills)
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case event, open := <-watch.ResultChan():
			p, is := event.Object.(*v1alpha1.HSMPool)
			if !open || !is {
				if ctx.Err() == nil {
					t.Errorf("the watch of pools ended with %v", event)
				}
				return
			}
			writes++
			if err := exactly(p, want[p.Name]); err != nil {
				t.Error(err)
			}
		}
	}
}

func (w *world) discoveryPods(ctx context.Context, t *testing.T) []corev1.Pod {
	t.Helper()
	pods, err := w.core.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=hsm-discovery"})
	must(t, err)
	return slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.Spec.NodeName == control || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning
	})
}

// agentPods are the agents' pods by uid, and how often each was started again.
func (w *world) agentPods(ctx context.Context, t *testing.T) map[string]int32 {
	t.Helper()
	pods, err := w.core.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: "hsm.j5t.io/agent"})
	must(t, err)
	found := map[string]int32{}
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			found[string(pod.UID)] += status.RestartCount
		}
	}
	return found
}
