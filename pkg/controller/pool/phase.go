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

// tally is how many tokens of a pool can be used.
type tally struct {
	total, served int32
	// coming are those whose agent has just been made, failing the others that are not
	// served.
	coming, failing int32
	// why names up to three of those that fail.
	why []string
}

func (t *tally) fail(format string, args ...any) {
	t.failing++
	if len(t.why) < 3 {
		t.why = append(t.why, fmt.Sprintf(format, args...))
	}
}

// tally counts the tokens.
func (f *facts) tally(d *decision, pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, status *v1alpha1.HSMPoolStatus) tally {
	t := tally{total: status.TotalDevices}
	for i := range status.AggregatedDevices {
		device := &status.AggregatedDevices[i]
		member := memberOf(status, device.SerialNumber)
		switch {
		case !device.Available:
			t.fail("%s is not available: %s", called(device), device.Reason)
		case !isServed(devices, device):
			t.served++
		case member == nil:
			t.fail("%s has no agent", called(device))
		case member.State == v1alpha1.MemberStateServing:
			t.served++
		case (member.State == v1alpha1.MemberStateStarting || member.State == v1alpha1.MemberStateLoading) && f.isNew(d, pool, device):
			t.coming++
		default:
			t.fail("%s is not served: %s", called(device), member.State)
		}
	}
	return t
}

// isNew tells whether a token or its agent has come so lately that it need not be
// served yet.
func (f *facts) isNew(d *decision, pool *v1alpha1.HSMPool, device *v1alpha1.AggregatedDevice) bool {
	since := device.LastTransitionTime.Time
	if a, found := f.agentOf(device.SerialNumber); found && a.pod.CreationTimestamp.After(since) {
		since = a.pod.CreationTimestamp.Time
	}
	end := since.Add(membership.GracePeriod(pool))
	if !f.now.Before(end) {
		return false
	}
	d.wake(end)
	return true
}

func memberOf(status *v1alpha1.HSMPoolStatus, serial string) *v1alpha1.PoolMember {
	i := slices.IndexFunc(status.Members, func(m v1alpha1.PoolMember) bool { return m.SerialNumber == serial })
	if i < 0 {
		return nil
	}
	return &status.Members[i]
}

// sumUp makes the phase and the conditions.
//
//	               nothing heard, nothing known ──> Pending
//	all that lacks is on its way ──────────────────> Aggregating
//	nothing lacks, and there are tokens ───────────> Ready
//	something lacks, some tokens can be used ──────> Partial
//	no token can be used ──────────────────────────> Error
func (f *facts) sumUp(d *decision, pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, p pods, status *v1alpha1.HSMPoolStatus) {
	t := f.tally(d, pool, devices, status)
	late := p.missing - p.coming
	switch {
	case t.total == 0 && len(p.reporting) == 0 && (p.missing > 0 || f.wanted <= 0):
		status.Phase = v1alpha1.PoolPhasePending
	case t.failing == 0 && late == 0 && t.coming+p.coming > 0:
		status.Phase = v1alpha1.PoolPhaseAggregating
	case t.failing == 0 && late == 0 && t.total > 0:
		status.Phase = v1alpha1.PoolPhaseReady
	case t.served+t.coming > 0:
		status.Phase = v1alpha1.PoolPhasePartial
	default:
		status.Phase = v1alpha1.PoolPhaseError
	}
	reporting := reportingCondition(f.wanted, p)
	available := availableCondition(devices, status)
	conditions := []metav1.Condition{reporting, available}
	if slices.ContainsFunc(devices, membership.ServedByAgents) {
		conditions = append(conditions, servingCondition(t))
	} else {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.HSMPoolAgentsServing)
	}
	conditions = append(conditions, readyCondition(status.Phase, conditions))
	for _, condition := range conditions {
		condition.ObservedGeneration = pool.Generation
		condition.LastTransitionTime = *f.stamp()
		meta.SetStatusCondition(&status.Conditions, condition)
	}
}

// condition is true without a reason that speaks against it.
func condition(kind, good, bad, format string, args ...any) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: good, Message: fmt.Sprintf(format, args...)}
	if bad != "" {
		c.Status, c.Reason = metav1.ConditionFalse, bad
	}
	return c
}

func reportingCondition(wanted int32, p pods) metav1.Condition {
	reason, message := "", fmt.Sprintf("%d of %d discovery pods report", p.expected-p.missing, p.expected)
	switch {
	case wanted < 0:
		reason, message = "NoDiscovery", "there is no DaemonSet "+discoveryName
	case p.missing > p.coming:
		reason = "PodsMissing"
	case p.missing > 0:
		reason = "PodsComing"
	case p.failed != nil:
		reason, message = "DiscoveryFailed", fmt.Sprintf("pod %s on node %s: %s", p.failed.PodName, p.failed.NodeName, p.failed.Error)
	}
	return condition(v1alpha1.HSMPoolReporting, "AllReport", reason, "%s", message)
}

func availableCondition(devices []*v1alpha1.HSMDevice, status *v1alpha1.HSMPoolStatus) metav1.Condition {
	reason := ""
	message := fmt.Sprintf("%d of %d tokens are available", status.AvailableDevices, status.TotalDevices)
	switch {
	case len(devices) == 0:
		reason, message = "NoHSMDevice", "no HSMDevice of spec.hsmDeviceRefs is there, or another HSMPool lists it"
	case status.TotalDevices == 0:
		reason, message = "NoDevices", "no token was found"
	case status.AvailableDevices < status.TotalDevices:
		reason = "DevicesUnavailable"
		for i := range status.AggregatedDevices {
			if device := &status.AggregatedDevices[i]; !device.Available {
				message += fmt.Sprintf("; %s on node %s: %s", called(device), device.NodeName, device.Reason)
				break
			}
		}
	}
	return condition(v1alpha1.HSMPoolDevicesAvailable, "AllAvailable", reason, "%s", message)
}

func servingCondition(t tally) metav1.Condition {
	reason := ""
	switch {
	case t.total == 0:
		reason = "NoDevices"
	case t.failing > 0:
		reason = "TokensNotServed"
	case t.coming > 0:
		reason = "AgentsStarting"
	}
	message := fmt.Sprintf("%d of %d tokens are served", t.served, t.total)
	return condition(v1alpha1.HSMPoolAgentsServing, "AllServed", reason, "%s", strings.Join(append([]string{message}, t.why...), "; "))
}

// readyCondition gives the first condition that speaks against it as its reason.
func readyCondition(phase v1alpha1.PoolPhase, others []metav1.Condition) metav1.Condition {
	if phase == v1alpha1.PoolPhaseReady {
		return condition(v1alpha1.HSMPoolReady, "Ready", "", "all tokens can be used")
	}
	for _, other := range others {
		if other.Status != metav1.ConditionTrue {
			return condition(v1alpha1.HSMPoolReady, "Ready", other.Reason, "%s", other.Message)
		}
	}
	return condition(v1alpha1.HSMPoolReady, "Ready", string(phase), "")
}

// called is how people know a device.
func called(device *v1alpha1.AggregatedDevice) string {
	if device.SerialNumber != "" {
		return "token " + device.SerialNumber
	}
	return "device " + device.DevicePath
}
