// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// figuresInterval is the shortest time between two writes of figures alone.
const figuresInterval = time.Minute

// maxStuckListed is how many stuck objects of a token are listed.
const maxStuckListed = 64

// memberFacts are what the standing of a member is made of.
type memberFacts struct {
	deviceListed, deviceAvailable, deviceAbsent bool
	hasPod, podRuns, podReady                   bool
	// polled: its agent was polled since the controller's start. It answers now, or did
	// once.
	polled, answers, answered bool
	// endpointKept: its status has a state, of an agent at the same endpoint.
	endpointKept bool
}

// A standing is how a member is served.
type standing string

const (
	standsRefused     standing = "Refused"     // Its device must not be used, whatever its agent says.
	standsAbsent      standing = "Absent"      // Neither device nor agent is there.
	standsWithoutPod  standing = "WithoutPod"  // Its agent has no pod yet.
	standsNotRunning  standing = "NotRunning"  // The pod does not run.
	standsUnchanged   standing = "Unchanged"   // The controller has just started: as it was before.
	standsStarting    standing = "Starting"    // Its agent has not answered yet.
	standsUnreachable standing = "Unreachable" // Its agent does not answer any more.
	standsAnswered    standing = "Answered"    // As its agent says.
)

// standingOf is a pure function: the first case that applies decides.
func standingOf(f memberFacts) standing {
	switch {
	case f.deviceListed && !f.deviceAvailable && !f.deviceAbsent:
		return standsRefused
	case !f.hasPod && f.deviceListed && !f.deviceAvailable:
		return standsAbsent
	case !f.hasPod:
		return standsWithoutPod
	case !f.podRuns:
		return standsNotRunning
	case !f.polled && f.endpointKept:
		return standsUnchanged
	case !f.polled, !f.answered && !f.podReady:
		return standsStarting
	case !f.answers:
		return standsUnreachable
	}
	return standsAnswered
}

// member is how the token with a serial number is served. device is nil if it is not
// listed any more, previous if it was no member.
func (f *facts) member(serial string, device *v1alpha1.AggregatedDevice, previous *v1alpha1.PoolMember) v1alpha1.PoolMember {
	m := v1alpha1.PoolMember{SerialNumber: serial}
	if previous != nil {
		m = *previous.DeepCopy()
	}
	a, hasPod := f.agentOf(serial)
	endpoint := a.endpoint()
	about := memberFacts{hasPod: hasPod, podRuns: endpoint != "", endpointKept: m.State != "" && m.AgentEndpoint == endpoint}
	if device != nil {
		m.NodeName = device.NodeName
		about.deviceListed, about.deviceAvailable, about.deviceAbsent = true, device.Available, isAbsent(device.Reason)
	}
	if hasPod {
		m.NodeName = cmp.Or(a.pod.Spec.NodeName, m.NodeName)
		about.podReady = isReady(a.pod)
	}
	if a.answer != nil {
		about.polled, about.answers, about.answered = true, a.answer.err == nil, a.answer.status != nil
	}
	m.AgentEndpoint = endpoint
	switch standingOf(about) {
	case standsRefused:
		m.AgentEndpoint = ""
		m.State, m.Message = v1alpha1.MemberState(device.Reason), device.Message
	case standsAbsent:
		m.State, m.Message = v1alpha1.MemberState(device.Reason), device.Message
	case standsWithoutPod:
		m.State, m.Message = v1alpha1.MemberStateStarting, "its agent has no pod yet"
	case standsNotRunning:
		m.State, m.Message = v1alpha1.MemberStateStarting, fmt.Sprintf("pod %s of its agent does not run%s", a.pod.Name, waiting(a.pod))
	case standsStarting:
		m.State, m.Message = v1alpha1.MemberStateStarting, "its agent has not answered yet"
	case standsUnreachable:
		m.State = v1alpha1.MemberStateAgentUnreachable
		m.Message = truncate(fmt.Sprintf("the agent does not answer at %s: %v", endpoint, a.answer.err))
	case standsAnswered:
		applyAnswer(&m, a.answer)
	}
	return m
}

// applyAnswer sets what an agent has answered.
func applyAnswer(m *v1alpha1.PoolMember, a *answer) {
	s := a.status
	m.State, m.Message = v1alpha1.MemberStateServing, s.GetMessage()
	if s.GetReason() != agentv1.Reason_REASON_UNSPECIFIED {
		m.State = v1alpha1.MemberState(camel(s.GetReason().String(), "REASON_"))
	}
	if m.Message == "" {
		m.Message = s.GetPinMessage()
	}
	m.Message = truncate(m.Message)
	m.StoreID = cmp.Or(s.GetStoreId(), m.StoreID)
	m.FirmwareVersion = cmp.Or(s.GetFirmwareVersion(), m.FirmwareVersion)
	m.HardwareVersion = cmp.Or(s.GetHardwareVersion(), m.HardwareVersion)
	m.PINState = ""
	if s.GetPinState() != agentv1.PINState_PIN_STATE_UNSPECIFIED {
		m.PINState = v1alpha1.PINState(camel(s.GetPinState().String(), "PIN_STATE_"))
	}
	if s.GetRevision() != 0 {
		m.Revision = strconv.FormatUint(s.GetRevision(), 10)
	}
	if c := s.GetCapacity(); c != nil {
		// Spare objects can be freed at any time.
		m.Objects = v1alpha1.Capacity{Used: max(0, c.GetObjects()-c.GetSpareObjects()), Free: max(0, c.GetFreeObjects())}
		m.Bytes = v1alpha1.Capacity{Used: max(0, c.GetBytes()-c.GetSpareBytes()), Free: max(0, c.GetFreeBytes())}
		m.ReservedObjects, m.QuarantinedObjects = max(0, c.GetReservedObjects()), max(0, c.GetQuarantinedObjects())
		m.Profile = cmp.Or(c.GetProfile(), m.Profile)
		m.StuckObjects = slices.Clone(s.GetStuckObjects()[:min(len(s.GetStuckObjects()), maxStuckListed)])
	}
	// An agent that has not opened its store yet does not know that all is well.
	m.NeedsRelayout = s.GetNeedsRelayout() || s.GetCapacity() == nil && m.NeedsRelayout
	if scrub := s.GetScrub(); scrub != nil {
		m.LastScrubTime = timestamp(time.Unix(scrub.GetTime(), 0))
		m.ScrubInterval = &metav1.Duration{Duration: time.Duration(scrub.GetIntervalSeconds()) * time.Second}
	}
	if !a.expiry.IsZero() {
		m.CertificateExpiry = timestamp(a.expiry)
	}
}

// camel writes a word of protobuf as one of Kubernetes: REASON_PIN_REJECTED as
// PinRejected.
func camel(word, prefix string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(strings.TrimPrefix(word, prefix), "_") {
		if part != "" {
			b.WriteString(part[:1] + strings.ToLower(part[1:]))
		}
	}
	return b.String()
}

// holdFigures keeps the figures of members as they were written, if nothing else is new and
// they were written less than figuresInterval ago.
func (f *facts) holdFigures(d *decision, pool *v1alpha1.HSMPool, status *v1alpha1.HSMPoolStatus) {
	until := f.written[keyOf(pool)].Add(figuresInterval)
	if !f.now.Before(until) || equality.Semantic.DeepEqual(*status, pool.Status) {
		return
	}
	held := status.DeepCopy()
	for i := range held.Members {
		if i < len(pool.Status.Members) {
			copyFigures(&held.Members[i], &pool.Status.Members[i])
		}
	}
	if equality.Semantic.DeepEqual(*held, pool.Status) {
		*status = *held
		d.recheckAt(until)
	}
}

// copyFigures copies what changes without a change of state.
func copyFigures(to, from *v1alpha1.PoolMember) {
	to.Revision, to.Objects, to.Bytes = from.Revision, from.Objects, from.Bytes
	to.ReservedObjects, to.QuarantinedObjects = from.ReservedObjects, from.QuarantinedObjects
	to.LastScrubTime, to.CertificateExpiry = from.LastScrubTime, from.CertificateExpiry
}
