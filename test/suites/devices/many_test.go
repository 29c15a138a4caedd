// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/test/framework/product"
)

// others is a second HSMDevice, with another product.
const others = "others"

// discoveryKills is the variable that says how often a discovery pod is killed or deleted:
// fewKills times if it is not set. make soak goes on for minutes.
const (
	discoveryKills = "DISCOVERY_KILLS"
	fewKills       = 20
)

func killsOfDiscovery(t *testing.T) int {
	t.Helper()
	text := os.Getenv(discoveryKills)
	if text == "" {
		return fewKills
	}
	kills, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", discoveryKills, err)
	}
	return kills
}

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
	seen := w.newWitness(ctx, t, want)
	began, kills := time.Now(), killsOfDiscovery(t)
	deleted := w.killDiscovery(ctx, t, kills)
	took := time.Since(began)
	for _, pool := range []string{sticks, others} {
		w.pool = pool
		w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
	}
	w.pool = sticks
	seen.stop()
	if after := w.agentPods(ctx, t); !maps.Equal(before, after) {
		t.Errorf("the agents' pods were\n%v\nand are\n%v", before, after)
	}
	if seen.reports == 0 || seen.writes == 0 {
		t.Errorf("%d reports and %d writes of pools were seen: it proves nothing", seen.reports, seen.writes)
	}
	t.Logf("%d discovery pods ended in %s, %d of them deleted: %d agents changed, %d of %d reports lost, %d of %d writes of pools without a change",
		kills, took.Round(time.Second), deleted, seen.agentChanges, seen.lostReports, seen.reports, seen.idleWrites, seen.writes)
	fmt.Printf("figure: discovery-kills %d\n", kills)
	fmt.Printf("figure: discovery-kills-agents-changed %d\n", seen.agentChanges)
	fmt.Printf("figure: discovery-kills-reports-lost %d\n", seen.lostReports)
	fmt.Printf("figure: discovery-kills-idle-status-writes %d\n", seen.idleWrites)
	fmt.Printf("figure: pool-status-writes-per-discovery-kill %.2f\n", float64(seen.writes)/float64(kills))
	w.kubectl(ctx, t, "", "delete", "hsmdevice", others, "-n", system)
	for _, s := range plugged {
		s.pull(t)
	}
}

// killDiscovery ends discovery pods at random, and returns how many of them were deleted. A
// process is killed and started again; a pod is deleted and another one takes its place.
// One of four that are deleted is not waited for.
func (w *world) killDiscovery(ctx context.Context, t *testing.T, kills int) (deleted int) {
	t.Helper()
	random := rand.New(rand.NewPCG(7, 8))
	for range kills {
		var pods []corev1.Pod
		eventually(ctx, t, "a discovery pod runs", func(ctx context.Context) error {
			if pods = w.discoveryPods(ctx, t); len(pods) == 0 {
				return errors.New("none does")
			}
			return nil
		})
		victim := pods[random.IntN(len(pods))]
		kill := random.IntN(2) == 0
		if kill {
			must(t, w.nodes[victim.Spec.NodeName].Kill(system, victim.Name))
		} else {
			must(t, w.core.CoreV1().Pods(system).Delete(ctx, victim.Name, metav1.DeleteOptions{}))
			deleted++
		}
		if !kill && random.IntN(4) == 0 {
			continue
		}
		eventually(ctx, t, "discovery runs again on "+victim.Spec.NodeName, func(ctx context.Context) error {
			for _, pod := range w.discoveryPods(ctx, t) {
				if pod.Spec.NodeName == victim.Spec.NodeName && product.Ready(&pod) && pod.Annotations[report.Annotation] != "" &&
					(pod.UID != victim.UID || restarts(&pod) > restarts(&victim)) {
					return nil
				}
			}
			return fmt.Errorf("%s was the last", victim.Name)
		})
	}
	return deleted
}

// exactly returns what a pool lacks, or has too much. Wanted are the nodes by serial number.
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

func (w *world) discoveryPods(ctx context.Context, t *testing.T) []corev1.Pod {
	t.Helper()
	pods, err := w.core.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: discoverySelector})
	must(t, err)
	return slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.Spec.NodeName == control || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning
	})
}

// agentPods are the agents' pods by uid, and how often each was started again.
func (w *world) agentPods(ctx context.Context, t *testing.T) map[string]int32 {
	t.Helper()
	pods, err := w.core.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: agentSelector})
	must(t, err)
	found := map[string]int32{}
	for _, pod := range pods.Items {
		found[string(pod.UID)] = restarts(&pod)
	}
	return found
}

// restarts is how often containers of a pod were started again.
func restarts(pod *corev1.Pod) (count int32) {
	for _, status := range pod.Status.ContainerStatuses {
		count += status.RestartCount
	}
	return count
}
