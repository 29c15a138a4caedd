// SPDX-License-Identifier: Apache-2.0

// Package hsm keeps records with the agents of this cluster. It owns which agent
// is used, which store is the cluster's, and what errors of agents mean to clients
// of the API. It never caches a record, never takes silence for absence, and never
// changes from one store to another by itself.
//
// A call goes: calls.go (Get, List, Commit, Watch) takes the current connection
// (connection.go), or makes one (connect.go) to an agent that has the store of the
// cluster (binding.go); errors.go says what a failure means.
package hsm

import (
	"context"
	"fmt"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"

	"j5t.io/hsm/pkg/agent/client"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/storage/records"
)

// Agent says where an agent is, and who it has to be.
type Agent struct {
	Address    string // Host and port.
	ServerName string // In its certificate; empty: the host of the address.
	Serial     string // Of its token; empty: not known.
}

func (a Agent) endpoint() client.Endpoint {
	return client.Endpoint{Address: a.Address, ServerName: a.ServerName}
}

// Client keeps records with those of its agents that have the store of the
// cluster. It connects when a request needs it, to the first agent that serves the
// store. It is safe for concurrent use.
type Client struct {
	dialer  *client.Dialer
	binding StoreBinding

	connecting  singleflight.Group // Calls that need a connection share one attempt.
	connections connections
}

var _ records.Backend = (*Client)(nil)

// NewClient makes a client that is not connected yet. It refuses requests until
// SetAgents has named its agents. The options are added to those of each
// connection.
func NewClient(binding StoreBinding, files mtls.Files, options ...grpc.DialOption) (*Client, error) {
	dialer, err := client.NewDialer(files, options...)
	if err != nil {
		return nil, err
	}
	return &Client{
		dialer: dialer, binding: binding,
		connections: connections{changed: make(chan struct{}), open: map[*connection]struct{}{}},
	}, nil
}

// Decorator lets genericregistry.Store keep its objects with the client, which
// it does not close.
func Decorator(client *Client, layout func(runtime.Codec) records.Layout) generic.StorageDecorator {
	return records.Decorator(func(schema.GroupResource) records.Backend { return client }, layout)
}

// SetAgents replaces the agents. Connections to others are closed: reads that
// wait for an answer on them are made again elsewhere, watches end.
func (c *Client) SetAgents(agents []Agent) { c.connections.setAgents(agents) }

// SetBoundStore closes the connections to all stores but the one that is bound now;
// it is empty when none is. The next connection reads the binding again.
func (c *Client) SetBoundStore(storeID string) { c.connections.keepStore(storeID) }

// Close ends all connections, and with them all calls. Later calls fail.
func (c *Client) Close() error {
	c.connections.close()
	return nil
}

// connect returns a connection to an agent of the store, which the caller has to
// release. reused reports that it was there before, and may have been lost since.
func (c *Client) connect(ctx context.Context) (_ *connection, reused bool, err error) {
	if conn, err := c.connections.acquireUsable(); conn != nil || err != nil {
		return conn, true, err
	}
	for {
		// Calls that come during an attempt share its outcome: one after the other
		// they would wait for long.
		select {
		case attempt := <-c.connecting.DoChan("", func() (any, error) { return c.establish() }):
			conn, _ := attempt.Val.(*connection)
			if attempt.Err != nil || c.connections.acquire(conn) {
				return conn, false, attempt.Err
			}
		case <-ctx.Done():
			return nil, false, apierrors.NewTimeoutError(fmt.Sprintf("no HSM agent was reached: %v", context.Cause(ctx)), 0)
		}
	}
}
