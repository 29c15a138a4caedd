// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
)

// agent is the pod of an agent, and the agent's last answer; nil if that is not known
// yet.
type agent struct {
	pod    *corev1.Pod
	answer *answer
}

// endpoint is where the agent listens; empty while that is not known.
func (a agent) endpoint() string {
	if a.pod == nil || a.pod.Status.PodIP == "" || a.pod.Status.Phase != corev1.PodRunning || a.pod.DeletionTimestamp != nil {
		return ""
	}
	return net.JoinHostPort(a.pod.Status.PodIP, strconv.Itoa(agentv1.Port))
}

// answer is the status that an agent has answered with, or why it does not answer.
type answer struct {
	status *agentv1.StatusResponse
	// expiry is that of the agent's certificate.
	expiry time.Time
	// err is set when it does not answer any more.
	err error
}

// agentsByName finds the pod of each agent: of an old and a new one the new.
func agentsByName(list []corev1.Pod) map[string]agent {
	agents := map[string]agent{}
	for i := range list {
		pod := &list[i]
		name := pod.Labels[agentname.ObjectLabel]
		if other := agents[name].pod; other == nil || newer(pod, other) {
			agents[name] = agent{pod: pod}
		}
	}
	return agents
}

func newer(a, b *corev1.Pod) bool {
	if isEnding(a) != isEnding(b) {
		return isEnding(b)
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) > 0
}

func isEnding(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// waiting says what a container waits for.
func waiting(pod *corev1.Pod) string {
	for _, container := range pod.Status.ContainerStatuses {
		if w := container.State.Waiting; w != nil && w.Reason != "" {
			return ": " + w.Reason
		}
	}
	return ""
}
