// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// AgentState is how one agent is.
type AgentState struct {
	Agent
	// Err says why the agent does not serve the store of the cluster; nil: it does.
	Err error
}

// Check asks all agents at once how they are, over connections of its own. It
// takes 2.5 s at most, and changes nothing: not which agent is used either. It is
// an error if there is no agent, or if it cannot be known which store is the
// cluster's.
func (c *Client) Check(ctx context.Context) ([]AgentState, error) {
	agents, _ := c.connections.known()
	if len(agents) == 0 {
		return nil, noAgent(agents != nil)
	}
	bound, err := c.binding.read(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]AgentState, len(agents))
	var wg sync.WaitGroup
	for i, agent := range agents {
		wg.Go(func() { states[i] = c.check(ctx, agent, bound) })
	}
	wg.Wait()
	return states, nil
}

func (c *Client) check(ctx context.Context, agent Agent, bound string) AgentState {
	p := c.probe(ctx, agent, bound)
	p.close()
	if reason := p.status.GetReason(); p.err == nil && reason != agentv1.Reason_REASON_UNSPECIFIED {
		p.err = apiError(agent.Address, agentv1.NewError(codes.Unavailable, reason, "%s", p.status.GetMessage()), isRead)
	}
	if serial := p.status.GetSerial(); serial != "" {
		agent.Serial = serial
	}
	return AgentState{agent, p.err}
}

// Connected reports whether there is a connection to an agent that serves the
// store, by that agent's last answer.
func (c *Client) Connected() bool {
	_, serves := c.connections.connected()
	return serves
}
