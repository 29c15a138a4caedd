// SPDX-License-Identifier: Apache-2.0

// Package hsm keeps records with the agents of one pool: it owns the connection
// to them and what their errors mean to clients of the API. It never caches a
// record, never takes silence for absence, and never changes from one store to
// another.
package hsm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/storage/records"
)

// connectTimeout bounds the attempt to reach one agent, its handshake and its
// first answer included.
const connectTimeout = 1500 * time.Millisecond

// Client keeps records with the agents of one pool, which all have the same
// store. It connects when it is needed, to the first agent that answers. It is
// safe for concurrent use.
type Client struct {
	addresses []string
	creds     credentials.TransportCredentials
	options   []grpc.DialOption

	connecting singleflight.Group // Calls that need a connection share one attempt.

	mu      sync.Mutex
	current *connection
	storeID string // Of the first contact; empty before it.
	closed  bool
}

var _ records.Backend = (*Client)(nil)

// connection is one transport connection to one agent, whose store was
// verified. It never reconnects: who answers next might be another one.
type connection struct {
	address string
	conn    *grpc.ClientConn
	store   agentv1.StoreClient
}

// NewClient makes a client of the agents at the addresses (host:port). It
// connects to none yet. Each must present a certificate of its host name. The
// options are added to those of each connection.
func NewClient(addresses []string, files mtls.Files, options ...grpc.DialOption) (*Client, error) {
	if len(addresses) == 0 {
		return nil, errors.New("no address of an agent is given")
	}
	for _, address := range addresses {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("address of an agent: %w", err)
		}
	}
	creds, err := files.Client()
	if err != nil {
		return nil, err
	}
	return &Client{addresses: addresses, creds: creds, options: options}, nil
}

// Decorator lets genericregistry.Store keep its objects with the client, which
// it does not close.
func Decorator(client *Client, layout func(runtime.Codec) records.Layout) generic.StorageDecorator {
	return records.Decorator(func(schema.GroupResource) records.Backend { return client }, layout)
}

// Close ends the connection, and with it all calls. Later calls fail.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.current == nil {
		return nil
	}
	conn := c.current.conn
	c.current = nil
	return conn.Close()
}

// connect gives a connection to an agent of the store. reused tells that it
// was there before, and may have been lost meanwhile.
func (c *Client) connect(ctx context.Context) (_ *connection, reused bool, err error) {
	if current, err := c.usable(); current != nil || err != nil {
		return current, true, err
	}
	// Those who come during an attempt get what comes of it: one after the other
	// they would wait for long.
	select {
	case attempt := <-c.connecting.DoChan("", func() (any, error) { return c.connectAnew() }):
		made, _ := attempt.Val.(*connection)
		return made, false, attempt.Err
	case <-ctx.Done():
		return nil, false, apiError(strings.Join(c.addresses, ", "), status.FromContextError(ctx.Err()).Err(), notSent)
	}
}

// connectAnew makes a connection to the first agent that answers.
func (c *Client) connectAnew() (*connection, error) {
	// The attempt before may just have ended.
	if current, err := c.usable(); current != nil || err != nil {
		return current, err
	}
	var failures []error
	for _, address := range c.addresses {
		made, err := c.dial(address)
		if err == nil {
			return made, c.adopt(made)
		}
		failures = append(failures, err)
	}
	return nil, firstSaid(failures)
}

// usable gives the current connection unless it was lost.
func (c *Client) usable() (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, errClosed
	case c.current != nil && c.current.conn.GetState() != connectivity.Ready:
		_ = c.current.conn.Close()
		c.current = nil
	}
	return c.current, nil
}

// adopt makes a new connection the current one.
func (c *Client) adopt(made *connection) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = made.conn.Close()
		return errClosed
	}
	c.current = made
	return nil
}

// drop gives up a connection whose agent does not answer.
func (c *Client) drop(lost *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == lost {
		c.current = nil
	}
	_ = lost.conn.Close()
}

// dial connects to one agent and verifies its store.
func (c *Client) dial(address string) (*connection, error) {
	made, response, err := c.open(context.Background(), address)
	if err != nil {
		return nil, err
	}
	if err := c.verify(response); err != nil {
		_ = made.conn.Close()
		return nil, apiError(address, err, notSent)
	}
	return made, nil
}

// open connects to one agent and asks how it is.
func (c *Client) open(ctx context.Context, address string) (*connection, *agentv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var dialled atomic.Bool
	conn, err := grpc.NewClient("passthrough:///"+address, append([]grpc.DialOption{
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
	}, c.options...)...)
	if err != nil {
		return nil, nil, apiError(address, err, notSent)
	}
	made := &connection{address: address, conn: conn, store: agentv1.NewStoreClient(conn)}
	response, err := made.store.Status(ctx, &agentv1.StatusRequest{})
	if err != nil {
		if status.Code(err) == codes.DeadlineExceeded {
			err = errSilent
		}
		_ = conn.Close()
		return nil, nil, apiError(address, err, notSent)
	}
	return made, response, nil
}

// verify refuses an agent of another store, and one that does not know its
// store yet.
func (c *Client) verify(response *agentv1.StatusResponse) error {
	if response.GetStoreId() == "" {
		return agentv1.NewError(codes.Unavailable, response.GetReason(), "%s", response.GetMessage())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.storeID == "" {
		c.storeID = response.GetStoreId()
	}
	if c.storeID != response.GetStoreId() {
		return agentv1.NewError(codes.Unavailable, agentv1.Reason_REASON_TOKEN_FOREIGN,
			"it serves store %s, and this server has worked with store %s; give it the right agents, or restart it",
			response.GetStoreId(), c.storeID)
	}
	return nil
}
