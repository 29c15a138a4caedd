// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/report"
)

const (
	system = "hsm-system"
	grace  = 5 * time.Minute
)

// world is a cluster as the reconciler sees it, with a clock that stands still.
type world struct {
	t           *testing.T
	now         time.Time
	start       time.Time
	devices     []*v1alpha1.HSMDevice
	pools       []*v1alpha1.HSMPool
	daemonSet   *appsv1.DaemonSet
	pods        map[string]*corev1.Pod
	agentPods   map[string]corev1.Pod
	answers     map[string]*answer
	lastReports lastReports
	written     map[key]time.Time
	writes      int
	refused     []string
	last        decision
}

// newWorld has nodes node-1 to node-n, without a pod, and an old pool for each
// HSMDevice.
func newWorld(t *testing.T, nodes int, devices ...string) *world {
	start := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	w := &world{
		t: t, now: start, start: start, pods: map[string]*corev1.Pod{}, agentPods: map[string]corev1.Pod{}, answers: map[string]*answer{},
		lastReports: lastReports{}, written: map[key]time.Time{},
		daemonSet: &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: discoveryName, UID: "daemonset"},
			Status:     appsv1.DaemonSetStatus{DesiredNumberScheduled: int32(nodes)},
		},
	}
	for _, name := range devices {
		meta := metav1.ObjectMeta{Namespace: system, Name: name, UID: types.UID(name), Generation: 1, CreationTimestamp: metav1.NewTime(start.Add(-time.Hour))}
		w.devices = append(w.devices, &v1alpha1.HSMDevice{ObjectMeta: meta, Spec: v1alpha1.HSMDeviceSpec{MaxDevices: 10}})
		w.pools = append(w.pools, &v1alpha1.HSMPool{ObjectMeta: meta, Spec: v1alpha1.HSMPoolSpec{
			HSMDeviceRefs: []string{name}, GracePeriod: &metav1.Duration{Duration: grace},
		}})
	}
	return w
}

// served has agents serve the tokens of all HSMDevices.
func (w *world) served() *world {
	for _, device := range w.devices {
		device.Spec.PKCS11 = &v1alpha1.PKCS11{}
	}
	return w
}

func (w *world) pool(name string) *v1alpha1.HSMPool {
	return w.pools[slices.IndexFunc(w.pools, func(p *v1alpha1.HSMPool) bool { return p.Name == name })]
}

// pod makes the discovery pod of a node.
func (w *world) pod(name, node string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: system, Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(w.now),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: discoveryName, UID: "daemonset", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: discoveryName},
	}
	w.pods[name] = pod
	return pod
}

// found is an entry of a report: "A" is a usable device, "A!Reason" one that is not.
func (w *world) found(device, node string, serials ...string) report.Entry {
	entry := report.Entry{
		HSMDeviceNamespace: system, HSMDeviceName: device, ObservedGeneration: 1, ReportingNode: node, NodeSelected: true,
		LastReportTime: report.Time(w.now), DiscoveryStatus: v1alpha1.DiscoveryStatusCompleted, DiscoveredDevices: []report.Device{},
	}
	for i, serial := range serials {
		serial, reason, _ := strings.Cut(serial, "!")
		entry.DiscoveredDevices = append(entry.DiscoveredDevices, report.Device{
			SerialNumber: serial, DevicePath: fmt.Sprintf("/dev/bus/usb/001/%03d", i+2), Reason: report.Reason(reason), LastSeen: report.Time(w.now),
		})
	}
	return entry
}

// report has the pod of a node, named as the node unless said otherwise, report.
func (w *world) report(entries ...report.Entry) {
	w.t.Helper()
	w.reportBy(entries[0].ReportingNode, entries...)
}

func (w *world) reportBy(name string, entries ...report.Entry) {
	w.t.Helper()
	value, err := report.Encode(entries)
	if err != nil {
		w.t.Fatal(err)
	}
	pod := w.pods[name]
	if pod == nil {
		pod = w.pod(name, entries[0].ReportingNode)
	}
	pod.Annotations = map[string]string{report.Annotation: value}
}

// agent runs the agent of a token. Without a node it has no pod.
func (w *world) agent(serial, node string, a *answer) {
	name := agentname.For(serial)
	if node == "" {
		delete(w.agentPods, name)
		return
	}
	w.agentPods[name] = corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name + "-x", Labels: map[string]string{agentname.ObjectLabel: name}, CreationTimestamp: metav1.NewTime(w.now)},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	}
	w.answers[name] = a
}

func serving(revision uint64) *answer {
	return &answer{status: &agentv1.StatusResponse{StoreId: "5e", Revision: revision}}
}

func failing(reason agentv1.Reason) *answer {
	return &answer{status: &agentv1.StatusResponse{Reason: reason, Message: "because"}}
}

// decide decides and writes, as the reconciler does.
func (w *world) decide() {
	w.t.Helper()
	f := &facts{now: w.now, devices: w.devices, discoveryPods: noDaemonSet, written: w.written, pools: w.pools}
	if w.daemonSet != nil {
		f.discoveryPods = w.daemonSet.Status.DesiredNumberScheduled
	}
	var pods, agentPods []corev1.Pod
	for _, pod := range w.pods {
		pods = append(pods, *pod)
	}
	f.nodes = nodesOf(pods, w.daemonSet, w.now, func(pod *corev1.Pod, err error) { w.refused = append(w.refused, pod.Name+": "+err.Error()) })
	r := &reconciler{lastReports: w.lastReports, start: w.start}
	r.restoreReports(f)
	for _, pod := range w.agentPods {
		agentPods = append(agentPods, pod)
	}
	f.agents = agentsByName(agentPods)
	for name, a := range f.agents {
		a.answer = w.answers[name]
		f.agents[name] = a
	}
	w.last = decide(f)
	for i, pool := range w.pools {
		status := w.last.statuses[keyOf(pool)]
		if !equality.Semantic.DeepEqual(status, pool.Status) {
			changed := pool.DeepCopy()
			changed.Status = status
			w.pools[i] = changed
			w.writes++
			w.written[keyOf(pool)] = w.now
		}
	}
}

// pass lets time pass, deciding whenever the last decision said so.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for decisions := 0; ; decisions++ {
		if decisions > 1000 {
			w.t.Fatal("the decisions never come to rest")
		}
		next := w.last.next
		if next.IsZero() || next.After(end) {
			break
		}
		if next.Before(w.now) {
			w.t.Fatalf("the next decision is at %s, before now", next)
		}
		w.now = next
		w.decide()
		if !w.last.next.IsZero() && !w.last.next.After(next) {
			w.t.Fatalf("the decision at %s asks for the next at %s", next, w.last.next)
		}
	}
	w.now = end
}

// restart forgets what only the controller's process holds.
func (w *world) restart() {
	w.lastReports, w.written, w.start = lastReports{}, map[key]time.Time{}, w.now
}

// want compares a pool with "PHASE AVAILABLE/TOTAL REPORTING/EXPECTED DEVICE... | MEMBER...".
func (w *world) want(name, want string) {
	w.t.Helper()
	w.decide()
	if got := describe(&w.pool(name).Status); got != want {
		w.t.Errorf("after %s, pool %s is\n  %s, want\n  %s", w.now.Sub(w.start), name, got, want)
	}
}

func describe(s *v1alpha1.HSMPoolStatus) string {
	fresh := 0
	for _, pod := range s.ReportingPods {
		if pod.Fresh {
			fresh++
		}
	}
	words := []string{string(s.Phase), fmt.Sprintf("%d/%d", s.AvailableDevices, s.TotalDevices), fmt.Sprintf("%d/%d", fresh, s.ExpectedPods)}
	for _, device := range s.AggregatedDevices {
		word := cmp.Or(device.SerialNumber, device.DevicePath) + "@" + strings.TrimPrefix(device.NodeName, "node-")
		if !device.Available {
			word += "!" + device.Reason
		}
		words = append(words, word)
	}
	if len(s.Members) > 0 {
		words = append(words, "|")
	}
	for _, member := range s.Members {
		word := member.SerialNumber + "@" + strings.TrimPrefix(member.NodeName, "node-") + ":" + string(member.State)
		if member.AgentEndpoint == "" {
			word += "(no endpoint)"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}
