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

// nodeReport is the report of a node, and the pod that it is from.
type nodeReport struct {
	pod  string
	time time.Time
	// entries is nil if it is only known that there was a report.
	entries map[key]report.Entry
}

// node is what is known of the discovery on one node.
type node struct {
	nodeReport
	// hasPod: there is a discovery pod, ready or not.
	hasPod bool
	// podCreated is when the pod was made that has not reported yet; zero if there is none.
	podCreated time.Time
	// notReady is since when no pod has been ready; zero if one is, or may be.
	notReady time.Time
}

// counts reports whether the report still counts, and until when.
func (n *node) counts(grace time.Duration, now time.Time) (counts bool, until time.Time) {
	until = n.time.Add(grace)
	if end := n.notReady.Add(grace); !n.notReady.IsZero() && end.Before(until) {
		until = end
	}
	return now.Before(until), until
}

// errNotDiscovery refuses the report of a pod that is none of discovery's.
var errNotDiscovery = errors.New("the pod is not of the DaemonSet " + discoveryName)

// isDiscovery reports whether the DaemonSet made the pod, and it runs as the
// ServiceAccount whose writes an admission policy limits.
func isDiscovery(pod *corev1.Pod, daemonSet *appsv1.DaemonSet) bool {
	owner := metav1.GetControllerOf(pod)
	return daemonSet != nil && owner != nil && owner.Kind == "DaemonSet" && owner.UID == daemonSet.UID &&
		pod.Spec.ServiceAccountName == discoveryName
}

// reportOf reads the report on a pod of discovery; nil if there is none yet. It is an error
// if a node reports about another one, or about the future.
func reportOf(pod *corev1.Pod, now time.Time) (*nodeReport, error) {
	value, found := pod.Annotations[report.Annotation]
	if !found {
		return nil, nil
	}
	entries, err := report.Decode(value)
	if err != nil {
		return nil, err
	}
	h := &nodeReport{pod: pod.Name, entries: make(map[key]report.Entry, len(entries))}
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

// nodesOf sums up the discovery pods by node. It calls refused for each report that does
// not count, and not for pods without a report.
func nodesOf(pods []corev1.Pod, daemonSet *appsv1.DaemonSet, now time.Time, refused func(*corev1.Pod, error)) map[string]*node {
	nodes := map[string]*node{}
	for i := range pods {
		pod := &pods[i]
		if !isDiscovery(pod, daemonSet) {
			if _, reports := pod.Annotations[report.Annotation]; reports {
				refused(pod, errNotDiscovery)
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
		n.hasPod = true
		if since := notReadySince(pod); since.IsZero() || since.After(n.notReady) && !n.notReady.IsZero() {
			n.notReady = since
		}
		h, err := reportOf(pod, now)
		switch {
		case err != nil:
			refused(pod, err)
			n.addPending(pod)
		case h == nil:
			n.addPending(pod)
		case n.entries == nil || h.time.After(n.time):
			n.nodeReport = *h
		}
	}
	return nodes
}

func (n *node) addPending(pod *corev1.Pod) {
	if pod.CreationTimestamp.After(n.podCreated) {
		n.podCreated = pod.CreationTimestamp.Time
	}
}

// notReadySince is zero for a pod that is ready, or of which kubelet has said nothing yet.
func notReadySince(pod *corev1.Pod) time.Time {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionFalse {
			return condition.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// lastReports are those of each node. A pod that is gone takes its report with it, but not
// the devices.
type lastReports map[string]nodeReport

// restore gives nodes without a report their last one, and keeps the reports of the others.
// Nodes that a status lists, and that have not reported since the start, count as if they
// had reported then.
func (l lastReports) restore(nodes map[string]*node, listed []string, start time.Time) {
	for _, name := range listed {
		if nodes[name] == nil {
			nodes[name] = &node{}
		}
	}
	for name := range l {
		if nodes[name] == nil {
			nodes[name] = &node{}
		}
	}
	for name, n := range nodes {
		if n.entries != nil {
			l[name] = n.nodeReport
			continue
		}
		if last, found := l[name]; found {
			n.nodeReport = last
		} else if n.time.IsZero() {
			n.time = start
		}
	}
}

// dropDevice drops what was reported for an HSMDevice that is gone: another one of its
// name is not the same.
func (l lastReports) dropDevice(device key) {
	for _, last := range l {
		delete(last.entries, device)
	}
}

// dropOlder drops what is older than any pool keeps.
func (l lastReports) dropOlder(before time.Time) {
	for name, last := range l {
		if last.time.Before(before) {
			delete(l, name)
		}
	}
}
