// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/discovery/report"
)

const (
	// discoveryName is the name of the DaemonSet, of its ServiceAccount, and the value
	// of the label by which its pods are watched.
	discoveryName  = "hsm-discovery"
	discoveryLabel = "app.kubernetes.io/name"

	// maxSkew is how far the clock of a node may be ahead.
	maxSkew = time.Minute
)

// key names an HSMDevice or an HSMPool.
type key = types.NamespacedName

// heard is a report that counts, and whose it is.
type heard struct {
	pod  string
	time time.Time
	// entries is nil if nothing is known but that there was a report.
	entries map[key]report.Entry
}

// node is what is known of the discovery on one node.
type node struct {
	heard
	// alive tells that there is a discovery pod, ready to report or not.
	alive bool
	// awaited is when the pod was made that has not reported yet; zero if there is
	// none.
	awaited time.Time
	// notReady is since when no pod has been ready; zero if one is, or may be.
	notReady time.Time
}

// fresh tells whether the report counts still, and when that ends.
func (n *node) fresh(grace time.Duration, now time.Time) (counts bool, until time.Time) {
	until = n.time.Add(grace)
	if end := n.notReady.Add(grace); !n.notReady.IsZero() && end.Before(until) {
		until = end
	}
	return now.Before(until), until
}

// errForeign is of a pod that is none of discovery's.
var errForeign = errors.New("the pod is not of the DaemonSet " + discoveryName)

// isDiscovery tells whether the DaemonSet made the pod, and kubelet gave it the
// identity by which an admission policy limits what it writes.
func isDiscovery(pod *corev1.Pod, daemonSet *appsv1.DaemonSet) bool {
	owner := metav1.GetControllerOf(pod)
	return daemonSet != nil && owner != nil && owner.Kind == "DaemonSet" && owner.UID == daemonSet.UID &&
		pod.Spec.ServiceAccountName == discoveryName
}

// reportOf reads the report on a pod of discovery; nil if there is none yet. What a
// node may not say is an error: only about itself, and not about the future.
func reportOf(pod *corev1.Pod, now time.Time) (*heard, error) {
	value, found := pod.Annotations[report.Annotation]
	if !found {
		return nil, nil
	}
	entries, err := report.Decode(value)
	if err != nil {
		return nil, err
	}
	h := &heard{pod: pod.Name, entries: make(map[key]report.Entry, len(entries))}
	for _, entry := range entries {
		if entry.ReportingNode != pod.Spec.NodeName {
			return nil, fmt.Errorf("it is about node %+q, and the pod runs on %q", entry.ReportingNode, pod.Spec.NodeName)
		}
		if entry.LastReportTime.After(now.Add(maxSkew)) {
			return nil, fmt.Errorf("its lastReportTime %s is in the future; set the clock of node %q",
				entry.LastReportTime.UTC().Format(time.RFC3339), pod.Spec.NodeName)
		}
		if entry.LastReportTime.After(h.time) {
			h.time = entry.LastReportTime.Time
		}
		h.entries[key{Namespace: entry.HSMDeviceNamespace, Name: entry.HSMDeviceName}] = entry
	}
	if h.time.After(now) {
		h.time = now
	}
	return h, nil
}

// hear sums up the discovery pods by node. refused is told of each report that does
// not count; a pod without a report is no offence.
func hear(pods []corev1.Pod, daemonSet *appsv1.DaemonSet, now time.Time, refused func(*corev1.Pod, error)) map[string]*node {
	nodes := map[string]*node{}
	for i := range pods {
		pod := &pods[i]
		if !isDiscovery(pod, daemonSet) {
			if _, reports := pod.Annotations[report.Annotation]; reports {
				refused(pod, errForeign)
			}
			continue
		}
		if pod.Spec.NodeName == "" {
			continue
		}
		n := nodes[pod.Spec.NodeName]
		if n == nil {
			n = &node{notReady: notReadySince(pod)}
			nodes[pod.Spec.NodeName] = n
		}
		n.alive = true
		if since := notReadySince(pod); since.IsZero() || since.After(n.notReady) && !n.notReady.IsZero() {
			n.notReady = since
		}
		h, err := reportOf(pod, now)
		switch {
		case err != nil:
			refused(pod, err)
			n.await(pod)
		case h == nil:
			n.await(pod)
		case n.entries == nil || h.time.After(n.time):
			n.heard = *h
		}
	}
	return nodes
}

func (n *node) await(pod *corev1.Pod) {
	if pod.CreationTimestamp.After(n.awaited) {
		n.awaited = pod.CreationTimestamp.Time
	}
}

// notReadySince is zero for a pod that is ready, or of which kubelet has not told.
func notReadySince(pod *corev1.Pod) time.Time {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionFalse {
			return condition.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// memory is the last report of each node: a pod that is gone takes its report with
// it, but not the devices.
type memory map[string]heard

// recall gives nodes whose pods tell nothing what was last heard of them, and
// remembers what they tell. Nodes in known, of which nothing was heard since the
// start, count as if they had reported then.
func (m memory) recall(nodes map[string]*node, known []string, start time.Time) {
	for _, name := range known {
		if nodes[name] == nil {
			nodes[name] = &node{}
		}
	}
	for name := range m {
		if nodes[name] == nil {
			nodes[name] = &node{}
		}
	}
	for name, n := range nodes {
		if n.entries != nil {
			m[name] = n.heard
			continue
		}
		if last, found := m[name]; found {
			n.heard = last
		} else if n.time.IsZero() {
			n.time = start
		}
	}
}

// drop forgets what was reported for an HSMDevice that is gone: another one of its
// name is not it.
func (m memory) drop(device key) {
	for _, last := range m {
		delete(last.entries, device)
	}
}

// forget drops what is older than any pool keeps.
func (m memory) forget(before time.Time) {
	for name, last := range m {
		if last.time.Before(before) {
			delete(m, name)
		}
	}
}
