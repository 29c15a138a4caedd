// SPDX-License-Identifier: Apache-2.0

// Package client connects to agents. It owns how one agent is reached: TLS with
// the agent's own name, keepalive, message sizes, and the rule that a connection
// is usable only after the agent's first Status. It never chooses between agents,
// never repeats a call, and never reconnects: the next to answer at an address
// may be another agent.
package client

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
)

const (
	// A node that is gone answers no pings. The kernel would keep connections to
	// it open for minutes.
	keepaliveInterval = 10 * time.Second
	keepaliveTimeout  = 3 * time.Second
	// maxStatusBytes is more than any true status needs.
	maxStatusBytes = 1 << 20
)

// Endpoint is where an agent listens, and the name that its certificate must bear.
type Endpoint struct {
	Address    string // Host and port.
	ServerName string // Empty: the host of the address.
}

// Dialer connects to agents. It is safe for concurrent use.
type Dialer struct {
	creds   credentials.TransportCredentials
	options []grpc.DialOption
}

// NewDialer makes a dialer that identifies itself by the files, which must exist
// and are read again for each connection. Each connection also gets the options.
func NewDialer(files mtls.Files, options ...grpc.DialOption) (*Dialer, error) {
	creds, err := files.Client()
	if err != nil {
		return nil, err
	}
	return &Dialer{creds: creds, options: options}, nil
}

// Conn is a connection to one agent that has answered its first Status. It is
// safe for concurrent use. Once lost it stays lost.
type Conn struct {
	Store  agentv1.StoreClient
	Device agentv1.DeviceClient

	conn              *grpc.ClientConn
	certificateExpiry time.Time
}

// Dial connects to an agent, and returns its first status with the connection.
// The context bounds the attempt, and not the life of the connection. An agent
// that cannot be reached is an error with code Unavailable, one that does not
// answer in time an error with code DeadlineExceeded.
func (d *Dialer) Dial(ctx context.Context, endpoint Endpoint) (*Conn, *agentv1.StatusResponse, error) {
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(d.creds),
		grpc.WithContextDialer(dialOnce()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveInterval, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithIdleTimeout(0), // An idle connection would be closed, and made again.
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(agentv1.MaxMessageBytes), grpc.MaxCallSendMsgSize(agentv1.MaxMessageBytes)),
	}, d.options...)
	if endpoint.ServerName != "" {
		options = append(options, grpc.WithAuthority(endpoint.ServerName))
	}
	conn, err := grpc.NewClient("passthrough:///"+endpoint.Address, options...)
	if err != nil {
		return nil, nil, err
	}
	c := &Conn{Store: agentv1.NewStoreClient(conn), Device: agentv1.NewDeviceClient(conn), conn: conn}
	status, err := c.admit(ctx)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, status, nil
}

// dialOnce fails from the second attempt on, and so keeps gRPC from reconnecting.
func dialOnce() func(context.Context, string) (net.Conn, error) {
	var dialled atomic.Bool
	return func(ctx context.Context, address string) (net.Conn, error) {
		if dialled.Swap(true) {
			return nil, errors.New("the connection was lost")
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
}

// admit makes a new connection usable. It is the one place where an agent is let
// in, and nothing else is sent to the agent before: TLS has shown that it bears
// the expected name, and its first status says which store it has. What an agent
// must prove on each connection belongs here.
func (c *Conn) admit(ctx context.Context) (*agentv1.StatusResponse, error) {
	var agent peer.Peer
	status, err := c.Status(ctx, grpc.Peer(&agent))
	if err != nil {
		return nil, err
	}
	if info, ok := agent.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
		c.certificateExpiry = info.State.PeerCertificates[0].NotAfter
	}
	return status, nil
}

// Status asks the agent how it is. An agent whose token is away answers too.
func (c *Conn) Status(ctx context.Context, options ...grpc.CallOption) (*agentv1.StatusResponse, error) {
	return c.Store.Status(ctx, &agentv1.StatusRequest{}, append(options, grpc.MaxCallRecvMsgSize(maxStatusBytes))...)
}

// CertificateExpiry is when the certificate expires that the agent has shown on
// this connection.
func (c *Conn) CertificateExpiry() time.Time { return c.certificateExpiry }

// Usable reports whether the connection takes new calls: it was not lost, and the
// agent has not asked its clients to connect again.
func (c *Conn) Usable() bool { return c.conn.GetState() == connectivity.Ready }

// Close ends the connection, and all calls on it. It may be called again.
func (c *Conn) Close() {
	_ = c.conn.Close() // It fails only if it is closed already.
}
