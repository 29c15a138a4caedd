// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/report"
)

const (
	agentSelector     = "hsm.j5t.io/agent"
	discoverySelector = "app.kubernetes.io/name=hsm-discovery"
)

// witness sees every state of pools, agents' Deployments and reports while nothing happens
// to tokens.
type witness struct {
	// want are the nodes by serial number, by pool.
	want map[string]map[string]string
	// writes are those of pools. Those that tell nothing but the time are idle.
	writes, idleWrites int
	// agentChanges are those of Deployments, but for their status.
	agentChanges int
	// reports are those seen. Lost ones lack a token of their node, though they had it.
	reports, lostReports int
	stop                 func()
}

// newWitness begins to see.
func (w *world) newWitness(ctx context.Context, t *testing.T, want map[string]map[string]string) *witness {
	t.Helper()
	s := &witness{want: want}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	s.stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(s.stop)
	follow := func(what string, version string, open func(context.Context, metav1.ListOptions) (watch.Interface, error), selector string, see func(watch.Event)) {
		stream, err := open(ctx, metav1.ListOptions{ResourceVersion: version, LabelSelector: selector})
		must(t, err)
		group.Go(func() {
			defer stream.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case event, open := <-stream.ResultChan():
					if !open || event.Type == watch.Error {
						if ctx.Err() == nil {
							t.Errorf("the watch of %s ended with %v: the rest was not seen", what, event)
						}
						return
					}
					see(event)
				}
			}
		})
	}

	poolList, err := w.hsm.HsmV1alpha1().HSMPools(system).List(ctx, metav1.ListOptions{})
	must(t, err)
	pools := map[string]*v1alpha1.HSMPool{}
	for i := range poolList.Items {
		pools[poolList.Items[i].Name] = &poolList.Items[i]
	}
	follow("pools", poolList.ResourceVersion, w.hsm.HsmV1alpha1().HSMPools(system).Watch, "", func(event watch.Event) {
		pool := event.Object.(*v1alpha1.HSMPool)
		s.seePool(t, pools[pool.Name], pool)
		pools[pool.Name] = pool
	})

	deployments, err := w.core.AppsV1().Deployments(system).List(ctx, metav1.ListOptions{LabelSelector: agentSelector})
	must(t, err)
	agents := map[string]*appsv1.Deployment{}
	for i := range deployments.Items {
		agents[deployments.Items[i].Name] = &deployments.Items[i]
	}
	follow("agents", deployments.ResourceVersion, w.core.AppsV1().Deployments(system).Watch, agentSelector, func(event watch.Event) {
		agent := event.Object.(*appsv1.Deployment)
		s.seeAgent(t, event.Type, agents[agent.Name], agent)
		agents[agent.Name] = agent
	})

	reported := map[string]bool{}
	pods, err := w.core.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: discoverySelector})
	must(t, err)
	for i := range pods.Items {
		s.seeReport(t, reported, &pods.Items[i])
	}
	follow("reports", pods.ResourceVersion, w.core.CoreV1().Pods(system).Watch, discoverySelector, func(event watch.Event) {
		s.seeReport(t, reported, event.Object.(*corev1.Pod))
	})
	return s
}

// seePool wants every token in its pool, available and served, and a reason for the write.
func (s *witness) seePool(t *testing.T, before, after *v1alpha1.HSMPool) {
	s.writes++
	if err := exactly(after, s.want[after.Name]); err != nil {
		t.Error(err)
	}
	if before != nil && equality.Semantic.DeepEqual(timeless(before), timeless(after)) {
		s.idleWrites++
		t.Errorf("pool %s was written without a change:\n%+v\n%+v", after.Name, before.Status, after.Status)
	}
}

// timeless is a pool's status without the times that every report has.
func timeless(pool *v1alpha1.HSMPool) *v1alpha1.HSMPoolStatus {
	status := pool.Status.DeepCopy()
	status.LastAggregationTime = nil
	for i := range status.ReportingPods {
		status.ReportingPods[i].LastReportTime = nil
	}
	for i := range status.AggregatedDevices {
		status.AggregatedDevices[i].LastSeen = nil
	}
	return status
}

// seeAgent wants that nobody touches what is deployed.
func (s *witness) seeAgent(t *testing.T, kind watch.EventType, before, after *appsv1.Deployment) {
	if before != nil && kind == watch.Modified && before.UID == after.UID && before.Generation == after.Generation &&
		maps.Equal(before.Annotations, after.Annotations) && maps.Equal(before.Labels, after.Labels) {
		return
	}
	s.agentChanges++
	t.Errorf("the agent %s was changed: %s, generation %d", after.Name, kind, after.Generation)
}

// seeReport fails the test unless a pod that reports lists all tokens of its node, and goes on to.
func (s *witness) seeReport(t *testing.T, reported map[string]bool, pod *corev1.Pod) {
	text, uid := pod.Annotations[report.Annotation], string(pod.UID)
	if pod.Spec.NodeName == control || text == "" && !reported[uid] {
		return
	}
	reported[uid] = true
	s.reports++
	var got, want []string
	entries, err := report.Decode(text)
	for _, entry := range entries {
		for _, device := range entry.DiscoveredDevices {
			got = append(got, fmt.Sprintf("%s/%s%s", entry.HSMDeviceName, device.SerialNumber, device.Reason))
		}
	}
	for pool, tokens := range s.want {
		for serial, node := range tokens {
			if node == pod.Spec.NodeName {
				want = append(want, pool+"/"+serial)
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		s.lostReports++
		t.Errorf("%s reports %q (%v), want %q", pod.Name, got, err, want)
	}
}
