// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/discovery/report"
)

func notReady(since time.Time) []corev1.PodCondition {
	return []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(since)}}
}

// TestNoWriteByTheClock lets an hour pass in which discovery says the same again
// and again, and agents answer.
func TestNoWriteByTheClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, "pico").served()
	tell := func() {
		for node := range 3 {
			w.report(w.found("pico", fmt.Sprintf("node-%d", node+1), fmt.Sprintf("T%d", node)))
		}
	}
	tell()
	for node := range 3 {
		w.agent(fmt.Sprintf("T%d", node), fmt.Sprintf("node-%d", node+1), serving(1))
	}
	w.want("pico", "Ready 3/3 3/3 T0@1 T1@2 T2@3 | T0@1:Serving T1@2:Serving T2@3:Serving")
	before := w.writes
	for range 60 {
		w.pass(time.Minute)
		tell()
		w.decide()
	}
	if w.writes != before {
		t.Errorf("%d writes in an hour without a change", w.writes-before)
	}
}

// TestFiguresAreWrittenOnceAMinute has an agent's revision move every two seconds.
func TestFiguresAreWrittenOnceAMinute(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, "pico").served()
	w.agent("A", "node-1", serving(1))
	name := agentname.For("A")
	w.report(w.found("pico", "node-1", "A"))
	w.decide()
	before := w.writes
	for i := range 120 {
		w.pass(2 * time.Second)
		w.report(w.found("pico", "node-1", "A"))
		w.answers[name] = serving(uint64(i + 2))
		w.decide()
	}
	if writes := w.writes - before; writes != 4 {
		t.Errorf("%d writes in 4 minutes, want 4", writes)
	}
	w.pass(time.Minute)
	if got := w.pool("pico").Status.Members[0].Revision; got != "121" {
		t.Errorf("the revision is %s, want the last one", got)
	}
	// A change of state is written at once, with the figures as they are then.
	w.answers[name] = &answer{status: serving(200).status, err: errNotDiscovery}
	w.want("pico", "Error 1/1 1/1 A@1 | A@1:AgentUnreachable")
	w.pass(time.Second)
	w.answers[name] = serving(201)
	w.want("pico", "Ready 1/1 1/1 A@1 | A@1:Serving")
	if got := w.pool("pico").Status.Members[0].Revision; got != "201" {
		t.Errorf("the revision is %s, want that of the new state", got)
	}
}

// TestReplacedPods replaces discovery pods at random, on 3 nodes with 2 HSMDevices and
// several tokens each: every device stays in exactly its pool.
func TestReplacedPods(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, "pico", "nitro")
	random := rand.New(rand.NewPCG(7, 7))
	pods := map[int]string{}
	tell := func(node int) {
		name := fmt.Sprintf("node-%d", node)
		w.reportBy(pods[node], w.found("pico", name, fmt.Sprintf("P%da", node), fmt.Sprintf("P%db", node)), w.found("nitro", name, fmt.Sprintf("N%d", node)))
	}
	for node := 1; node <= 3; node++ {
		pods[node] = fmt.Sprintf("discovery-%d-0", node)
		tell(node)
	}
	check := func() {
		t.Helper()
		w.want("pico", "Ready 6/6 3/3 P1a@1 P1b@1 P2a@2 P2b@2 P3a@3 P3b@3")
		w.want("nitro", "Ready 3/3 3/3 N1@1 N2@2 N3@3")
	}
	check()
	for i := range 500 {
		node := 1 + random.IntN(3)
		before := w.writes
		delete(w.pods, pods[node])
		check()
		pods[node] = fmt.Sprintf("discovery-%d-%d", node, i+1)
		w.pod(pods[node], fmt.Sprintf("node-%d", node))
		w.pass(time.Duration(random.IntN(20)) * time.Second)
		check()
		if w.writes != before {
			t.Fatalf("%d writes because of a pod that is gone", w.writes-before)
		}
		if random.IntN(10) == 0 {
			w.restart() // The controller, too.
			check()
		}
		for n := 1; n <= 3; n++ {
			tell(n)
		}
		check()
		// Each pool names the new pod.
		if w.writes > before+2 {
			t.Fatalf("%d writes because of a new pod", w.writes-before)
		}
	}
}

func TestHostileReports(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*world, *corev1.Pod)
		why    string
	}{
		"another owner":           {func(_ *world, p *corev1.Pod) { p.OwnerReferences[0].UID = "other" }, "not of the DaemonSet"},
		"an owner of its own":     {func(_ *world, p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }, "not of the DaemonSet"},
		"no owner":                {func(_ *world, p *corev1.Pod) { p.OwnerReferences = nil }, "not of the DaemonSet"},
		"another ServiceAccount":  {func(_ *world, p *corev1.Pod) { p.Spec.ServiceAccountName = "default" }, "not of the DaemonSet"},
		"another node":            {func(_ *world, p *corev1.Pod) { p.Spec.NodeName = "node-2" }, `about node "node-1"`},
		"a giant annotation":      {func(_ *world, p *corev1.Pod) { p.Annotations[report.Annotation] = strings.Repeat("x", 250<<10) }, "more than"},
		"bad JSON":                {func(_ *world, p *corev1.Pod) { p.Annotations[report.Annotation] = "[{" }, "unexpected end"},
		"a time in the future":    {func(w *world, _ *corev1.Pod) { w.now = w.now.Add(-2 * maxSkew) }, "in the future"},
		"a path outside of /dev":  {func(_ *world, p *corev1.Pod) { replace(p, "/dev/bus", "/etc/bus") }, "clean path"},
		"a serial number of none": {func(_ *world, p *corev1.Pod) { replace(p, `"A"`, `"\u0007"`) }, "serial"},
		"1,000 devices": {func(w *world, p *corev1.Pod) {
			entry := w.found("pico", "node-1")
			list := strings.Repeat(`{"devicePath":"/dev/a","serialNumber":"A"},`, 999) + `{"devicePath":"/dev/a","serialNumber":"A"}`
			value, err := report.Encode([]report.Entry{entry})
			if err != nil {
				panic(err)
			}
			p.Annotations[report.Annotation] = strings.Replace(value, `"discoveredDevices":[]`, `"discoveredDevices":[`+list+"]", 1)
		}, "1000 devices"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1, "pico")
			w.report(w.found("pico", "node-1", "A"))
			pod := w.pods["node-1"]
			test.change(w, pod)
			trimmed, err := trimPod(pod)
			if err != nil {
				t.Fatal(err)
			}
			w.pods["node-1"] = trimmed.(*corev1.Pod)
			w.decide()
			if got := describe(&w.pool("pico").Status); !strings.HasPrefix(got, "Pending 0/0 0/1") && !strings.HasPrefix(got, "Aggregating 0/0 0/1") {
				t.Errorf("the pool is %s", got)
			}
			if len(w.refused) != 1 || !strings.Contains(w.refused[0], test.why) {
				t.Errorf("refused are %q, want one with %q", w.refused, test.why)
			}
		})
	}
}

func replace(p *corev1.Pod, from, to string) {
	p.Annotations[report.Annotation] = strings.ReplaceAll(p.Annotations[report.Annotation], from, to)
}
