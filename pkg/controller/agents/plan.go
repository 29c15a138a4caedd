// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

// place is where a token is, and who describes it.
type place struct {
	device types.NamespacedName // The HSMDevice.
	node   string
	path   string // Of the device file. It changes when the token is enumerated again.
}

// agent is the agent of a token, desired or deployed.
type agent struct {
	serial string
	place
	// absentSince is when the token was first missed; zero if it is seen.
	absentSince time.Time
	// hint is the id of the store that the token was known to hold when its agent came to
	// this node; empty if that is not known.
	hint string
}

func (a agent) name() string { return agentname.For(a.serial) }

// facts are all that a plan is made of.
type facts struct {
	now     time.Time
	devices map[types.NamespacedName]*v1alpha1.HSMDevice
	pools   []*v1alpha1.HSMPool
	// deployed are the agents that have a Deployment.
	deployed []agent
}

// plan says which agents are to run.
type plan struct {
	desired []agent // By serial number.
	// notices are the Events to make.
	notices []notice
	// next is when another plan is due; zero: when something has changed.
	next time.Time
}

// notice is an Event to make: of the pool if there is one, or of the HSMDevice.
type notice struct {
	pool    *v1alpha1.HSMPool
	device  types.NamespacedName
	warning bool
	reason  string
	message string
}

// makePlan is a pure function. It decides for each token:
//
//	seen at one place ──────────────────────────► an agent there
//	seen at several ──┬─ one of it is the agent's ─► stays there
//	                  └─ else ──────────────────────► none is made, none is moved
//	not seen, its agent serves it ──────────────► stays
//	not seen ─── for less than gracePeriod ─────► stays
//	         └── for longer ────────────────────► goes
//	its HSMDevice is gone, or has no pkcs11 ────► goes at once
func (f *facts) makePlan() plan {
	p := plan{}
	seen := f.seen()
	deployed := map[string]agent{}
	for _, a := range f.deployed {
		deployed[a.serial] = a
	}
	serials := slices.Collect(maps.Keys(deployed))
	for serial := range seen {
		if _, exists := deployed[serial]; !exists {
			serials = append(serials, serial)
		}
	}
	slices.Sort(serials)
	for _, serial := range serials {
		old, exists := deployed[serial]
		if a, desired := f.decide(&p, serial, seen[serial], old, exists); desired {
			p.desired = append(p.desired, a)
		}
	}
	return p
}

func (f *facts) decide(p *plan, serial string, places []place, old agent, exists bool) (agent, bool) {
	if exists {
		old.absentSince = f.absentSince(old, len(places) > 0)
	}
	switch {
	case len(places) == 1:
		return agent{serial: serial, place: places[0]}, true
	case len(places) > 1:
		for _, at := range places {
			p.notices = append(p.notices, notice{device: at.device, warning: true, reason: "SerialAmbiguous", message: fmt.Sprintf(
				"the token with serial number %q is seen at several places: %v. No agent is made for it, and none is moved, until it is seen at one place only", serial, places)})
		}
		return old, exists
	case !exists || !membership.ServedByAgents(f.devices[old.device]):
		return agent{}, false
	case old.absentSince.IsZero():
		return old, true
	}
	gone := old.absentSince.Add(membership.GracePeriod(membership.PoolOf(f.pools, old.device)))
	if !f.now.Before(gone) {
		p.notices = append(p.notices, notice{device: old.device, reason: "AgentRemoved", message: fmt.Sprintf(
			"the token with serial number %q was not seen on node %s since %s: its agent is removed. The agent's state stays on the node", serial, old.node, old.absentSince.UTC().Format(time.RFC3339))})
		return agent{}, false
	}
	if p.next.IsZero() || gone.Before(p.next) {
		p.next = gone
	}
	return old, true
}

// absentSince is when the token of an agent was first missed. An agent that serves its token
// sees it, whatever discovery says.
func (f *facts) absentSince(old agent, seen bool) time.Time {
	if seen || f.isServing(old.serial) {
		return time.Time{}
	}
	if old.absentSince.IsZero() {
		return f.now
	}
	return old.absentSince
}

func (f *facts) isServing(serial string) bool {
	for _, pool := range f.pools {
		for _, member := range pool.Status.Members {
			if member.SerialNumber == serial && member.State == v1alpha1.MemberStateServing {
				return true
			}
		}
	}
	return false
}

// seen are the places of all tokens that an agent may use. A token may be listed by several
// pools.
func (f *facts) seen() map[string][]place {
	seen := map[string][]place{}
	for _, pool := range f.pools {
		for _, d := range pool.Status.AggregatedDevices {
			at := place{
				device: types.NamespacedName{Namespace: pool.Namespace, Name: cmp.Or(d.HSMDeviceName, pool.Name)},
				node:   d.NodeName,
				path:   d.DevicePath,
			}
			if d.Available && d.SerialNumber != "" && membership.ServedByAgents(f.devices[at.device]) && !slices.Contains(seen[d.SerialNumber], at) {
				seen[d.SerialNumber] = append(seen[d.SerialNumber], at)
			}
		}
	}
	return seen
}
