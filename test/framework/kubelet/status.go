// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

// hostAddress is that of all nodes.
const hostAddress = "127.0.0.1"

// report writes the pod's status, if it has changed.
func (p *pod) report(ctx context.Context) error {
	client := p.kubelet.client.CoreV1().Pods(p.namespace)
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		object := p.current()
		wanted := p.status(object.Status)
		if equality.Semantic.DeepEqual(wanted, &object.Status) {
			return nil
		}
		// The newest: others write to the object as well, and what was written last may not
		// have been seen yet.
		object, err := client.Get(ctx, p.name, metav1.GetOptions{})
		if err != nil || object.UID != p.current().UID {
			return err
		}
		object.Status = *p.status(object.Status)
		written, err := client.UpdateStatus(ctx, object, metav1.UpdateOptions{})
		if err == nil {
			p.mutex.Lock()
			p.object = written
			p.mutex.Unlock()
		}
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// status is what there is to tell. Times of what has not changed stay.
func (p *pod) status(before corev1.PodStatus) *corev1.PodStatus {
	p.mutex.Lock()
	waiting, containers := p.waiting, p.containers
	p.mutex.Unlock()

	status := before.DeepCopy()
	status.Phase = corev1.PodPending
	status.HostIP, status.HostIPs = hostAddress, []corev1.HostIP{{IP: hostAddress}}
	if status.StartTime == nil {
		now := metav1.Now().Rfc3339Copy()
		status.StartTime = &now
	}
	ready := len(containers) > 0
	status.InitContainerStatuses, status.ContainerStatuses = nil, nil
	for _, c := range containers {
		told := c.status()
		ready = ready && told.Ready
		if c.init {
			status.InitContainerStatuses = append(status.InitContainerStatuses, told)
		} else {
			status.ContainerStatuses = append(status.ContainerStatuses, told)
		}
	}
	if len(containers) > 0 {
		status.Phase = corev1.PodRunning
		status.PodIP, status.PodIPs = p.address, []corev1.PodIP{{IP: p.address}}
	}
	message := ""
	if waiting != nil {
		message = waiting.Error()
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		value := corev1.ConditionFalse
		if ready || kind == corev1.PodInitialized && len(containers) > 0 {
			value = corev1.ConditionTrue
		}
		setCondition(status, corev1.PodCondition{Type: kind, Status: value, Message: message, ObservedGeneration: p.current().Generation})
	}
	return status
}

func setCondition(status *corev1.PodStatus, condition corev1.PodCondition) {
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != condition.Type {
			continue
		}
		condition.LastTransitionTime = old.LastTransitionTime
		if old.Status != condition.Status {
			condition.LastTransitionTime = metav1.Now().Rfc3339Copy()
		}
		*old = condition
		return
	}
	condition.LastTransitionTime = metav1.Now().Rfc3339Copy()
	status.Conditions = append(status.Conditions, condition)
}

func (c *container) status() corev1.ContainerStatus {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	started := c.started
	status := corev1.ContainerStatus{
		Name:         c.spec.Name,
		Image:        c.spec.Image,
		ImageID:      c.spec.Image,
		Ready:        c.ready,
		Started:      &started,
		RestartCount: c.restarts,
	}
	if c.restarts > 0 {
		status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: c.exitCode, Reason: "Error"}
	}
	if c.process != nil || c.absent() {
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: c.since.Rfc3339Copy()}
		return status
	}
	status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating", Message: c.problem}
	if c.problem != "" {
		status.State.Waiting.Reason = "CrashLoopBackOff"
	}
	return status
}
