// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storebinding"
)

// connectTimeout bounds the attempt to reach one agent, its handshake and its
// first status included.
const connectTimeout = 1500 * time.Millisecond

// probe is what came of connecting to one agent.
type probe struct {
	conn   *connection // A candidate; nil if the agent gave no status.
	status *agentv1.StatusResponse
	err    error // Of the API: why the agent cannot be used.
}

func (p probe) close() {
	if p.conn != nil {
		p.conn.Close()
	}
}

func closeAll(probes []probe) {
	for _, p := range probes {
		p.close()
	}
}

// establish returns the current connection, and makes one if there is none. When
// the agents change meanwhile, it begins again with the new ones.
func (c *Client) establish() (*connection, error) {
	for {
		// Another attempt may have ended just now.
		if conn, err := c.connections.usable(); conn != nil || err != nil {
			return conn, err
		}
		agents, changed := c.connections.known()
		conn, err := c.chooseUntil(changed, agents)
		if err == nil {
			conn, err = c.connections.promote(conn)
		}
		if err == nil {
			return conn, nil
		}
		select {
		case <-changed:
		default:
			return nil, err
		}
	}
}

// chooseUntil chooses an agent, and gives up when the channel is closed.
func (c *Client) chooseUntil(changed <-chan struct{}, agents []Agent) (*connection, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return c.choose(ctx, agents)
}

// choose connects to all agents at once, and returns the connection to the first
// that serves the bound store. If none serves it, it returns one to an agent that
// has the store, and that will tell callers why it does not serve. While no store
// is bound, it binds the cluster to the only one that the agents have.
func (c *Client) choose(ctx context.Context, agents []Agent) (*connection, error) {
	if len(agents) == 0 {
		return nil, noAgent(agents != nil)
	}
	bound, err := c.binding.read(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan probe, len(agents))
	for _, agent := range agents {
		go func() { results <- c.probe(ctx, agent, bound) }()
	}
	var usable []probe
	var failures []error
	for left := len(agents) - 1; left >= 0; left-- {
		p := <-results
		switch {
		case p.err != nil:
			failures = append(failures, p.err)
			p.close()
		case bound != "" && p.conn.serves.Load():
			go func() {
				for range left {
					(<-results).close()
				}
			}()
			closeAll(usable)
			return p.conn, nil
		default:
			usable = append(usable, p)
		}
	}
	if len(usable) == 0 {
		return nil, mostTelling(failures)
	}
	if bound == "" {
		if err := c.bindOnly(ctx, usable); err != nil {
			closeAll(usable)
			return nil, err
		}
	}
	best := max(0, slices.IndexFunc(usable, func(p probe) bool { return p.conn.serves.Load() }))
	conn := usable[best].conn
	closeAll(slices.Delete(usable, best, best+1))
	return conn, nil
}

// bindOnly binds the cluster to the store of the agents, if all have the same one.
func (c *Client) bindOnly(ctx context.Context, usable []probe) error {
	addresses := map[string][]string{} // By store.
	for _, p := range usable {
		addresses[p.conn.storeID] = append(addresses[p.conn.storeID], p.conn.agent.Address)
	}
	if len(addresses) > 1 {
		var list []string
		for store, of := range addresses {
			slices.Sort(of)
			list = append(list, fmt.Sprintf("store %s (agent %s)", store, strings.Join(of, ", ")))
		}
		slices.Sort(list)
		return unavailable(CauseSeveralStores, fmt.Sprintf(
			"the agents have different stores, and the cluster is bound to none yet: %s; unplug all tokens but those of one store, or create ConfigMap %s with data.%s",
			strings.Join(list, ", "), c.binding, storebinding.StoreIDKey))
	}
	storeID := usable[0].conn.storeID
	bound, err := c.binding.create(ctx, storeID)
	if err == nil && bound != storeID { // Another replica has reached another agent.
		err = apiError(usable[0].conn.agent.Address, c.binding.foreign(storeID, bound), notSent)
	}
	return err
}

// probe connects to one agent. It is an error if the agent does not know its store
// yet, or has another one than the bound one; while none is bound, each will do.
func (c *Client) probe(ctx context.Context, agent Agent, bound string) probe {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, response, err := c.dialer.Dial(ctx, agent.endpoint())
	if err != nil {
		if status.Code(err) == codes.DeadlineExceeded {
			err = errSilent
		}
		return probe{err: apiError(agent.Address, err, notSent)}
	}
	made := &connection{Conn: conn, agent: agent, storeID: response.GetStoreId()}
	made.serves.Store(response.GetReason() == agentv1.Reason_REASON_UNSPECIFIED)
	switch {
	case made.storeID == "":
		err = agentv1.NewError(codes.Unavailable, response.GetReason(), "%s", response.GetMessage())
	case bound != "" && made.storeID != bound:
		err = c.binding.foreign(made.storeID, bound)
	}
	return probe{conn: made, status: response, err: apiError(agent.Address, err, notSent)}
}
