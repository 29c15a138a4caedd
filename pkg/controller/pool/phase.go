// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"time"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

// poolCounts are what a phase is made of.
type poolCounts struct {
	// tokens are all that are listed. Of these, usable ones are served, or need no agent;
	// starting ones have a new agent; failing ones are the rest.
	tokens, usable, starting, failing int32
	// reporting pods of discovery have reported once, missing ones have no report that
	// counts, pending ones are missing and still in their grace period.
	reporting, missing, pending int32
	// discoveryRuns: the DaemonSet wants pods.
	discoveryRuns bool
}

// phaseOf is a pure function: the first case that applies decides.
//
//	          ┌──────────┐  reports or tokens  ┌─────────────┐
//	 new ────►│ Pending  ├────────────────────►│ Aggregating │
//	          └──────────┘                     └──┬───────▲──┘
//	                        all is there, in time │       │ a pod or an agent is new
//	                                           ┌──▼───────┴──┐
//	                                           │    Ready    │
//	                                           └──┬───────▲──┘
//	                 something is late or refused │       │ all is well again
//	┌─────────┐  the last usable token fails   ┌──▼───────┴──┐
//	│  Error  │◄───────────────────────────────┤   Partial   │
//	└────┬────┘                                └──────▲──────┘
//	     └──────── some token is usable ──────────────┘
//
// Every phase may follow every other one: a decision looks at the counts only, and not at
// the phase before.
func phaseOf(c poolCounts) v1alpha1.PoolPhase {
	late := c.missing - c.pending
	allWell := c.failing == 0 && late == 0
	switch {
	case c.tokens == 0 && c.reporting == 0 && (c.missing > 0 || !c.discoveryRuns):
		return v1alpha1.PoolPhasePending // Nothing was heard, and nothing is known.
	case allWell && c.starting+c.pending > 0:
		return v1alpha1.PoolPhaseAggregating
	case allWell && c.tokens > 0:
		return v1alpha1.PoolPhaseReady
	case c.usable+c.starting > 0:
		return v1alpha1.PoolPhasePartial
	}
	return v1alpha1.PoolPhaseError
}

func (f *facts) counts(t tokenCounts, p podCounts) poolCounts {
	return poolCounts{
		tokens: t.total, usable: t.usable, starting: t.starting, failing: t.failing,
		reporting: int32(len(p.reporting)), missing: p.missing, pending: p.pending,
		discoveryRuns: f.discoveryPods > 0,
	}
}

// tokenCounts are how many tokens of a pool can be used.
type tokenCounts struct {
	total, usable, starting, failing int32
	// failures describe up to three of the failing ones.
	failures []string
}

func (t *tokenCounts) fail(format string, args ...any) {
	t.failing++
	if len(t.failures) < 3 {
		t.failures = append(t.failures, fmt.Sprintf(format, args...))
	}
}

func (f *facts) countTokens(d *decision, pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, status *v1alpha1.HSMPoolStatus) tokenCounts {
	t := tokenCounts{total: status.TotalDevices}
	grace := membership.GracePeriod(pool)
	for i := range status.AggregatedDevices {
		device := &status.AggregatedDevices[i]
		member := findMember(status, device.SerialNumber)
		switch {
		case !device.Available:
			t.fail("%s is not available: %s", deviceLabel(device), device.Reason)
		case !isServed(devices, device):
			t.usable++
		case member == nil:
			t.fail("%s has no agent", deviceLabel(device))
		case member.State == v1alpha1.MemberStateServing:
			t.usable++
		case (member.State == v1alpha1.MemberStateStarting || member.State == v1alpha1.MemberStateLoading) && f.isNew(d, grace, device):
			t.starting++
		default:
			t.fail("%s is not served: %s", deviceLabel(device), member.State)
		}
	}
	return t
}

// isNew reports whether a token or its agent came so lately that it need not be served yet.
func (f *facts) isNew(d *decision, grace time.Duration, device *v1alpha1.AggregatedDevice) bool {
	since := device.LastTransitionTime.Time
	if a, found := f.agentOf(device.SerialNumber); found && a.pod.CreationTimestamp.After(since) {
		since = a.pod.CreationTimestamp.Time
	}
	end := since.Add(grace)
	if !f.now.Before(end) {
		return false
	}
	d.recheckAt(end)
	return true
}
