// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// AgentState is how one agent is.
type AgentState struct {
	Agent
	// Err says why the agent does not serve the store of the cluster; nil: it does.
	Err error
}

// Check asks all agents at once how they are, over connections of its own. It
// takes 2.5 s at most, and changes nothing: not which agent serves either. It is
// an error if there is none, or if the store of the cluster is not known.
func (c *Client) Check(ctx context.Context) ([]AgentState, error) {
	agents, _ := c.connected()
	if len(agents) == 0 {
		return nil, noAgent(agents != nil)
	}
	pinned, err := c.pin.read(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]AgentState, len(agents))
	var wg sync.WaitGroup
	for i, agent := range agents {
		wg.Go(func() { states[i] = c.check(ctx, agent, pinned) })
	}
	wg.Wait()
	return states, nil
}

func (c *Client) check(ctx context.Context, agent Agent, pinned string) AgentState {
	a := c.ask(ctx, agent, pinned)
	discard(a.made)
	if reason := a.status.GetReason(); a.err == nil && reason != agentv1.Reason_REASON_UNSPECIFIED {
		a.err = apiError(agent.Address, agentv1.NewError(codes.Unavailable, reason, "%s", a.status.GetMessage()), isRead)
	}
	if serial := a.status.GetSerial(); serial != "" {
		agent.Serial = serial
	}
	return AgentState{agent, a.err}
}

// Connected tells whether there is a connection to an agent that serves, as far
// as is known without asking it.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current != nil && c.current.conn.GetState() == connectivity.Ready && c.current.serves.Load()
}

// connected gives all agents, nil while they are not known, and the one to which
// there is a connection, if there is one.
func (c *Client) connected() (agents []Agent, current *Agent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && c.current.conn.GetState() == connectivity.Ready {
		current = &c.current.agent
	}
	return slices.Clone(c.agents), current
}
