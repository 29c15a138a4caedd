// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// connectTimeout bounds the attempt to reach one agent, its handshake and its
// first answer included.
const connectTimeout = 1500 * time.Millisecond

// answer is what came of asking one agent how it is.
type answer struct {
	made   *connection // nil if it gave none.
	status *agentv1.StatusResponse
	err    error
}

// connectAnew makes the best connection that there is the current one.
func (c *Client) connectAnew() (*connection, error) {
	for {
		c.mu.Lock()
		current, err := c.usableLocked() // The attempt before may just have ended.
		agents, changed := c.agents, c.changed
		c.mu.Unlock()
		if current != nil || err != nil {
			return current, err
		}
		made, err := c.chooseUnless(changed, agents)
		if made != nil {
			if made, err = c.adopt(made); made != nil {
				return made, nil
			}
		}
		select {
		case <-changed: // Perhaps there is one now.
		default:
			return nil, err
		}
	}
}

// adopt makes a new connection the current one, if it is to one of the agents
// still. The current one stays if it is to the same agent: watches are on it.
func (c *Client) adopt(made *connection) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	former, err := c.current, error(nil)
	switch {
	case c.closed:
		err = errClosed
	case !slices.Contains(c.agents, made.agent):
		err = errMoved
	case former != nil && former.agent == made.agent && former.storeID == made.storeID && former.conn.GetState() == connectivity.Ready:
		former.serves.Store(made.serves.Load())
		_ = made.conn.Close()
		return former, nil
	}
	if err != nil {
		_ = made.conn.Close()
		return nil, err
	}
	c.open[made] = struct{}{}
	c.current = made
	if former != nil {
		c.endLocked(former, errMoved)
	}
	return made, nil
}

// chooseUnless chooses until a channel is closed.
func (c *Client) chooseUnless(changed <-chan struct{}, agents []Agent) (*connection, error) {
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

// choose asks all agents at once, and takes the first that serves the pinned
// store. If none does it takes one that has the store, and will say why it does
// not serve it. While no store is pinned it pins the only one that there is.
func (c *Client) choose(ctx context.Context, agents []Agent) (*connection, error) {
	if len(agents) == 0 {
		return nil, noAgent(agents != nil)
	}
	pinned, err := c.pin.read(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(agents))
	for _, agent := range agents {
		go func() { answers <- c.ask(ctx, agent, pinned) }()
	}
	var found []answer
	var failures []error
	for left := len(agents) - 1; left >= 0; left-- {
		a := <-answers
		switch {
		case a.err != nil:
			failures = append(failures, a.err)
			discard(a.made)
		case pinned != "" && a.made.serves.Load():
			go func() {
				for range left {
					discard((<-answers).made)
				}
			}()
			discardAll(found)
			return a.made, nil
		default:
			found = append(found, a)
		}
	}
	if len(found) == 0 {
		return nil, firstSaid(failures)
	}
	if pinned == "" {
		if err := c.pinOnly(ctx, found); err != nil {
			discardAll(found)
			return nil, err
		}
	}
	best := max(0, slices.IndexFunc(found, func(a answer) bool { return a.made.serves.Load() }))
	made := found[best].made
	discardAll(slices.Delete(found, best, best+1))
	return made, nil
}

func discardAll(answers []answer) {
	for _, a := range answers {
		discard(a.made)
	}
}

func discard(made *connection) {
	if made != nil {
		_ = made.conn.Close()
	}
}

// pinOnly pins the store of the agents that were found, if it is one.
func (c *Client) pinOnly(ctx context.Context, found []answer) error {
	agents := map[string][]string{}
	for _, a := range found {
		agents[a.made.storeID] = append(agents[a.made.storeID], a.made.agent.Address)
	}
	if len(agents) > 1 {
		var list []string
		for store, addresses := range agents {
			slices.Sort(addresses)
			list = append(list, fmt.Sprintf("store %s (agent %s)", store, strings.Join(addresses, ", ")))
		}
		slices.Sort(list)
		return unavailable(CauseSeveralStores, fmt.Sprintf(
			"the agents have different stores, and none is the cluster's yet: %s; unplug all tokens but those of one store, or create ConfigMap %s with data.%s",
			strings.Join(list, ", "), c.pin, pinKey))
	}
	storeID := found[0].made.storeID
	pinned, err := c.pin.create(ctx, storeID)
	if err == nil && pinned != storeID { // Another replica has seen another agent.
		err = apiError(found[0].made.agent.Address, c.pin.foreign(storeID, pinned), notSent)
	}
	return err
}

// ask connects to one agent, and asks how it is. It is an error if its store is
// not the pinned one, or not known yet; without a pin, each is as good.
func (c *Client) ask(ctx context.Context, agent Agent, pinned string) answer {
	made, response, err := c.dial(ctx, agent)
	if err != nil {
		return answer{err: apiError(agent.Address, err, notSent)}
	}
	switch made.storeID = response.GetStoreId(); made.storeID {
	case "":
		err = agentv1.NewError(codes.Unavailable, response.GetReason(), "%s", response.GetMessage())
	case pinned:
	default:
		if pinned != "" {
			err = c.pin.foreign(made.storeID, pinned)
		}
	}
	made.serves.Store(response.GetReason() == agentv1.Reason_REASON_UNSPECIFIED)
	return answer{made, response, apiError(agent.Address, err, notSent)}
}

func (c *Client) dial(ctx context.Context, agent Agent) (*connection, *agentv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var dialled atomic.Bool
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(c.creds),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			if dialled.Swap(true) {
				return nil, errors.New("the connection was lost")
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		// A node that is gone answers no pings; ended by the kernel, its connections would last for minutes.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(agentv1.MaxMessageBytes), grpc.MaxCallSendMsgSize(agentv1.MaxMessageBytes)),
	}, c.options...)
	if agent.ServerName != "" {
		options = append(options, grpc.WithAuthority(agent.ServerName))
	}
	conn, err := grpc.NewClient("passthrough:///"+agent.Address, options...)
	if err != nil {
		return nil, nil, err
	}
	made := &connection{agent: agent, conn: conn, store: agentv1.NewStoreClient(conn)}
	response, err := made.store.Status(ctx, &agentv1.StatusRequest{})
	if err != nil {
		if status.Code(err) == codes.DeadlineExceeded {
			err = errSilent
		}
		_ = conn.Close()
		return nil, nil, err
	}
	return made, response, nil
}
