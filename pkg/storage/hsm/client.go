// SPDX-License-Identifier: Apache-2.0

// Package hsm keeps records with the agents of this cluster: it owns the
// connection to them, which of their stores is the cluster's, and what their
// errors mean to clients of the API. It never caches a record, never takes
// silence for absence, and never changes from one store to another by itself.
package hsm

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/storage/records"
)

// Agent says where an agent is, and who it has to be.
type Agent struct {
	Address    string // Host and port.
	ServerName string // In its certificate; empty: the host of the address.
	Serial     string // Of its token; empty: not known.
}

// Client keeps records with those of its agents that have the store of the
// cluster. It connects when it is needed, to the first that serves. It is safe
// for concurrent use.
type Client struct {
	creds   credentials.TransportCredentials
	options []grpc.DialOption
	pin     Pin

	connecting singleflight.Group // Calls that need a connection share one attempt.

	mu      sync.Mutex
	agents  []Agent // nil until they are known.
	changed chan struct{}
	current *connection              // Takes new calls.
	open    map[*connection]struct{} // All that are not closed.
	closed  bool
}

var _ records.Backend = (*Client)(nil)

// connection is one transport connection to one agent, whose store was
// verified. It never reconnects: who answers next might be another one.
type connection struct {
	agent   Agent
	conn    *grpc.ClientConn
	store   agentv1.StoreClient
	storeID string
	serves  atomic.Bool           // By its last answer.
	cause   atomic.Pointer[error] // Why this client has closed it.

	// Guarded by the client.
	calls   int  // Under way.
	retired bool // It takes no more, and is closed after the last one.
}

// NewClient makes a client that connects to none yet. Requests are refused until
// SetAgents has told it of agents. The options are added to those of each
// connection.
func NewClient(pin Pin, files mtls.Files, options ...grpc.DialOption) (*Client, error) {
	creds, err := files.Client()
	if err != nil {
		return nil, err
	}
	return &Client{
		creds: creds, options: options, pin: pin,
		changed: make(chan struct{}), open: map[*connection]struct{}{},
	}, nil
}

// Decorator lets genericregistry.Store keep its objects with the client, which
// it does not close.
func Decorator(client *Client, layout func(runtime.Codec) records.Layout) generic.StorageDecorator {
	return records.Decorator(func(schema.GroupResource) records.Backend { return client }, layout)
}

// SetAgents replaces the agents. Connections to others are closed: reads that
// wait for an answer on them are made again elsewhere, watches end.
func (c *Client) SetAgents(agents []Agent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agents != nil && slices.Equal(agents, c.agents) {
		return
	}
	c.agents = append([]Agent{}, agents...)
	close(c.changed)
	c.changed = make(chan struct{})
	for made := range c.open {
		if !slices.Contains(c.agents, made.agent) {
			c.endLocked(made, errMoved)
		}
	}
}

// SetPinned tells that another store was pinned, or none: connections to others
// are closed. What is pinned is read again before the next one is trusted.
func (c *Client) SetPinned(storeID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for made := range c.open {
		if made.storeID != storeID {
			c.endLocked(made, errRepinned)
		}
	}
}

// Close ends all connections, and with them all calls. Later calls fail.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for made := range c.open {
		c.endLocked(made, errClosed)
	}
	return nil
}

// connect gives a connection to an agent of the store, which the caller has to
// release. reused tells that it was there before, and may have been lost meanwhile.
func (c *Client) connect(ctx context.Context) (_ *connection, reused bool, err error) {
	if made, err := c.acquireCurrent(); made != nil || err != nil {
		return made, true, err
	}
	for {
		// Those who come during an attempt get what comes of it: one after the other
		// they would wait for long.
		select {
		case attempt := <-c.connecting.DoChan("", func() (any, error) { return c.connectAnew() }):
			made, _ := attempt.Val.(*connection)
			if attempt.Err != nil || c.acquire(made) {
				return made, false, attempt.Err
			}
		case <-ctx.Done():
			return nil, false, apierrors.NewTimeoutError(fmt.Sprintf("no HSM agent was reached: %v", context.Cause(ctx)), 0)
		}
	}
}

// acquireCurrent gives the current connection, unless it was lost, or its agent
// does not serve and another one might.
func (c *Client) acquireCurrent() (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	current, err := c.usableLocked()
	if current != nil {
		current.calls++
	}
	return current, err
}

func (c *Client) usableLocked() (*connection, error) {
	if c.closed {
		return nil, errClosed
	}
	current := c.current
	switch {
	case current == nil:
		return nil, nil
	case current.conn.GetState() != connectivity.Ready:
		// It was lost, or its agent has asked to connect anew: calls that it still
		// answers go on.
		c.retireLocked(current)
		return nil, nil
	case !current.serves.Load() && len(c.agents) > 1:
		return nil, nil
	}
	return current, nil
}

// acquire is false for a connection that takes no more calls.
func (c *Client) acquire(made *connection) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if made.retired {
		return false
	}
	made.calls++
	return true
}

// release tells that a call has ended.
func (c *Client) release(made *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	made.calls--
	if made.retired && made.calls == 0 {
		c.closeLocked(made)
	}
}

// retire keeps new calls from a connection.
func (c *Client) retire(made *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retireLocked(made)
}

func (c *Client) retireLocked(made *connection) {
	made.retired = true
	if c.current == made {
		c.current = nil
	}
	if made.calls == 0 {
		c.closeLocked(made)
	}
}

// end closes a connection, and with it all calls on it, for a reason.
func (c *Client) end(made *connection, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(made, cause)
}

func (c *Client) endLocked(made *connection, cause error) {
	made.cause.CompareAndSwap(nil, &cause)
	c.retireLocked(made)
	c.closeLocked(made)
}

func (c *Client) closeLocked(made *connection) {
	delete(c.open, made)
	_ = made.conn.Close() // It fails only if it is closed already.
}

// reason is why a call has failed: that for which this client has closed the
// connection under it, if it has.
func (c *connection) reason(ctx context.Context, err error) error {
	if cause := c.cause.Load(); cause != nil && ctx.Err() == nil && (status.Code(err) == codes.Canceled || isLost(err)) {
		return *cause
	}
	return err
}
