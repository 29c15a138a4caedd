// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

const (
	// figuresInterval is the shortest time between two writes of mere figures.
	figuresInterval = time.Minute
)

// agent is the pod of an agent, and what the agent answers; nil if that is not known
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

// answer is what an agent says of itself, or why it cannot be asked.
type answer struct {
	status *agentv1.StatusResponse
	// expiry is that of the certificate that the agent shows.
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

// homes says in which pool each token is a member: where it is available, or else
// where it has been a member, or where it is missed.
func (f *facts) homes(seen map[key][]*sighting) map[string]key {
	type home struct {
		pool key
		rank int
	}
	best := map[string]home{}
	for _, pool := range f.pools {
		for _, s := range seen[keyOf(pool)] {
			if f.isDropped(s) || s.SerialNumber == "" {
				continue
			}
			rank := 2
			if s.Available {
				rank = 0
			} else if memberOf(&pool.Status, s.SerialNumber) != nil {
				rank = 1
			}
			if b, found := best[s.SerialNumber]; !found || rank < b.rank {
				best[s.SerialNumber] = home{keyOf(pool), rank}
			}
		}
	}
	homes := map[string]key{}
	for serial, b := range best {
		homes[serial] = b.pool
	}
	return homes
}

// members are the tokens of a pool that have an agent, or are to have one. A token
// stays a member until neither its device nor its agent is there any more.
func (f *facts) members(pool *v1alpha1.HSMPool, devices []*v1alpha1.HSMDevice, aggregated []v1alpha1.AggregatedDevice, homes map[string]key) []v1alpha1.PoolMember {
	listed := map[string]*v1alpha1.AggregatedDevice{}
	for i := range aggregated {
		device := &aggregated[i]
		if homes[device.SerialNumber] == keyOf(pool) && (listed[device.SerialNumber] == nil || device.Available) {
			listed[device.SerialNumber] = device
		}
	}
	var members []v1alpha1.PoolMember
	for serial, device := range listed {
		previous := memberOf(&pool.Status, serial)
		_, runs := f.agentOf(serial)
		if runs || (device.Available || previous != nil) && isServed(devices, device) {
			members = append(members, f.member(serial, device, previous))
		}
	}
	for i := range pool.Status.Members {
		previous := &pool.Status.Members[i]
		_, runs := f.agentOf(previous.SerialNumber)
		_, elsewhere := homes[previous.SerialNumber]
		if runs && !elsewhere {
			members = append(members, f.member(previous.SerialNumber, nil, previous))
		}
	}
	slices.SortFunc(members, func(a, b v1alpha1.PoolMember) int { return strings.Compare(a.SerialNumber, b.SerialNumber) })
	return members
}

// isServed reports whether agents serve the tokens of the HSMDevice that describes a device.
func isServed(devices []*v1alpha1.HSMDevice, device *v1alpha1.AggregatedDevice) bool {
	return slices.ContainsFunc(devices, func(d *v1alpha1.HSMDevice) bool {
		return d.Name == device.HSMDeviceName && membership.ServedByAgents(d)
	})
}

// member is how the token with a serial number is served. device is nil if it is not
// listed any more, previous if it has not been a member.
func (f *facts) member(serial string, device *v1alpha1.AggregatedDevice, previous *v1alpha1.PoolMember) v1alpha1.PoolMember {
	m := v1alpha1.PoolMember{SerialNumber: serial}
	if previous != nil {
		m = *previous.DeepCopy()
	}
	if device != nil {
		m.NodeName = device.NodeName
	}
	a, runs := f.agentOf(serial)
	if runs {
		m.NodeName = cmp.Or(a.pod.Spec.NodeName, m.NodeName)
	}
	before := m.AgentEndpoint
	m.AgentEndpoint = a.endpoint()
	switch {
	case device != nil && !device.Available && !isGone(device.Reason):
		// Whatever its agent says: it is not to be served.
		m.AgentEndpoint = ""
		m.State, m.Message = v1alpha1.MemberState(device.Reason), device.Message
	case !runs && device != nil && !device.Available:
		m.State, m.Message = v1alpha1.MemberState(device.Reason), device.Message
	case !runs:
		m.State, m.Message = v1alpha1.MemberStateStarting, "its agent has no pod yet"
	case m.AgentEndpoint == "":
		m.State, m.Message = v1alpha1.MemberStateStarting, fmt.Sprintf("pod %s of its agent does not run%s", a.pod.Name, waiting(a.pod))
	case a.answer == nil && before == m.AgentEndpoint && m.State != "":
		// As it was when the one who asked before was told.
	case a.answer == nil, a.answer.status == nil && !isReady(a.pod):
		m.State, m.Message = v1alpha1.MemberStateStarting, "its agent has not answered yet"
	case a.answer.err != nil:
		m.State = v1alpha1.MemberStateAgentUnreachable
		m.Message = truncate(fmt.Sprintf("the agent does not answer at %s: %v", m.AgentEndpoint, a.answer.err))
	default:
		told(&m, a.answer)
	}
	return m
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

// told takes over what an agent has answered.
func told(m *v1alpha1.PoolMember, a *answer) {
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
	m.PINState = ""
	if s.GetPinState() != agentv1.PINState_PIN_STATE_UNSPECIFIED {
		m.PINState = v1alpha1.PINState(camel(s.GetPinState().String(), "PIN_STATE_"))
	}
	if s.GetRevision() != 0 {
		m.Revision = strconv.FormatUint(s.GetRevision(), 10)
	}
	if c := s.GetCapacity(); c != nil {
		// Spare objects can be made room of at any time.
		m.Objects = v1alpha1.Capacity{Used: max(0, c.GetObjects()-c.GetSpareObjects()), Free: max(0, c.GetFreeObjects())}
		m.Bytes = v1alpha1.Capacity{Used: max(0, c.GetBytes()-c.GetSpareBytes()), Free: max(0, c.GetFreeBytes())}
		m.ReservedObjects, m.QuarantinedObjects = max(0, c.GetReservedObjects()), max(0, c.GetQuarantinedObjects())
	}
	if scrub := s.GetScrub(); scrub != nil {
		m.LastScrubTime = stamp(time.Unix(scrub.GetTime(), 0))
		m.ScrubInterval = &metav1.Duration{Duration: time.Duration(scrub.GetIntervalSeconds()) * time.Second}
	}
	if !a.expiry.IsZero() {
		m.CertificateExpiry = stamp(a.expiry)
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

// holdFigures keeps the figures of members as they were written, if nothing else is
// new and they were written lately.
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
		d.wake(until)
	}
}

// copyFigures copies what says nothing of how a token is.
func copyFigures(to, from *v1alpha1.PoolMember) {
	to.Revision, to.Objects, to.Bytes = from.Revision, from.Objects, from.Bytes
	to.ReservedObjects, to.QuarantinedObjects = from.ReservedObjects, from.QuarantinedObjects
	to.LastScrubTime, to.CertificateExpiry = from.LastScrubTime, from.CertificateExpiry
}
