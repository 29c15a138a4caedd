// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

// setConditions sets all conditions of a status that has its phase.
func (f *facts) setConditions(pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, p podCounts, t tokenCounts, status *v1alpha1.HSMPoolStatus) {
	conditions := []metav1.Condition{reportingCondition(f.discoveryPods, p), availableCondition(devices, status)}
	served := slices.ContainsFunc(devices, membership.ServedByAgents)
	if served {
		conditions = append(conditions, servingCondition(t))
	}
	conditions = append(conditions, readyCondition(status.Phase, conditions))
	if served {
		conditions = append(conditions, warningConditions(status)...)
	} else {
		for _, ofAgents := range []string{v1alpha1.HSMPoolAgentsServing, v1alpha1.HSMPoolNeedsRelayout, v1alpha1.HSMPoolFirmwareKnownBad, v1alpha1.HSMPoolShortAPDUs} {
			meta.RemoveStatusCondition(&status.Conditions, ofAgents)
		}
	}
	for _, condition := range conditions {
		condition.ObservedGeneration = pool.Generation
		condition.LastTransitionTime = *timestamp(f.now)
		meta.SetStatusCondition(&status.Conditions, condition)
	}
}

// newCondition returns a condition that is false if there is a problem, which is then its
// reason, and otherwise true for the reason good.
func newCondition(conditionType, good, problem, message string) metav1.Condition {
	if problem != "" {
		return metav1.Condition{Type: conditionType, Status: metav1.ConditionFalse, Reason: problem, Message: message}
	}
	return metav1.Condition{Type: conditionType, Status: metav1.ConditionTrue, Reason: good, Message: message}
}

func reportingCondition(discoveryPods int32, p podCounts) metav1.Condition {
	problem, message := "", fmt.Sprintf("%d of %d discovery pods report", p.expected-p.missing, p.expected)
	switch {
	case discoveryPods == noDaemonSet:
		problem, message = "NoDiscovery", "there is no DaemonSet "+discoveryName
	case p.missing > p.pending:
		problem = "PodsMissing"
	case p.missing > 0:
		problem = "PodsComing"
	case p.failed != nil:
		problem, message = "DiscoveryFailed", fmt.Sprintf("pod %s on node %s: %s", p.failed.PodName, p.failed.NodeName, p.failed.Error)
	}
	return newCondition(v1alpha1.HSMPoolReporting, "AllReport", problem, message)
}

func availableCondition(devices []*v1alpha1.HSMDevice, status *v1alpha1.HSMPoolStatus) metav1.Condition {
	problem, message := "", fmt.Sprintf("%d of %d tokens are available", status.AvailableDevices, status.TotalDevices)
	switch {
	case len(devices) == 0:
		problem, message = "NoHSMDevice", "no HSMDevice of spec.hsmDeviceRefs exists, or another HSMPool lists it"
	case status.TotalDevices == 0:
		problem, message = "NoDevices", "no token was found"
	case status.AvailableDevices < status.TotalDevices:
		problem = "DevicesUnavailable"
		i := slices.IndexFunc(status.AggregatedDevices, func(d v1alpha1.AggregatedDevice) bool { return !d.Available })
		first := &status.AggregatedDevices[i]
		message += fmt.Sprintf("; %s on node %s: %s", deviceLabel(first), first.NodeName, first.Reason)
	}
	return newCondition(v1alpha1.HSMPoolDevicesAvailable, "AllAvailable", problem, message)
}

func servingCondition(t tokenCounts) metav1.Condition {
	problem := ""
	switch {
	case t.total == 0:
		problem = "NoDevices"
	case t.failing > 0:
		problem = "TokensNotServed"
	case t.starting > 0:
		problem = "AgentsStarting"
	}
	message := fmt.Sprintf("%d of %d tokens are served", t.usable, t.total)
	return newCondition(v1alpha1.HSMPoolAgentsServing, "AllServed", problem, strings.Join(append([]string{message}, t.failures...), "; "))
}

// readyCondition takes its reason from the first of the others that is false.
func readyCondition(phase v1alpha1.PoolPhase, others []metav1.Condition) metav1.Condition {
	if phase == v1alpha1.PoolPhaseReady {
		return newCondition(v1alpha1.HSMPoolReady, "Ready", "", "all tokens can be used")
	}
	for _, other := range others {
		if other.Status != metav1.ConditionTrue {
			return newCondition(v1alpha1.HSMPoolReady, "Ready", other.Reason, other.Message)
		}
	}
	return newCondition(v1alpha1.HSMPoolReady, "Ready", string(phase), "")
}
