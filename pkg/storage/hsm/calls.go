// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/request"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/client"
)

// method is a method of the service Store: what its failure means, and how long it
// may take.
type method struct {
	name    string
	kind    kind
	timeout time.Duration // 0: it goes on until its context ends.
}

// k8s.io/apiserver cuts mutations at 34 s, and reads at 60 s.
var (
	methodGet    = method{"Get", isRead, 30 * time.Second}
	methodCommit = method{"Commit", isChange, 30 * time.Second}
	methodList   = method{"List", isRead, 55 * time.Second}
	methodStatus = method{"Status", isRead, 30 * time.Second}
	methodWatch  = method{name: "Watch", kind: isRead}
)

const (
	// While a call waits, the agent is asked for its status every heartbeatInterval.
	// So a busy token is waited for, and a dead agent is not.
	heartbeatInterval = time.Second
	heartbeatTimeout  = 1500 * time.Millisecond
)

// call is one call to an agent. It must pass on the context and the options.
type call func(context.Context, *client.Conn, ...grpc.CallOption) error

// Get implements records.Backend.
func (c *Client) Get(ctx context.Context, in *agentv1.GetRequest) (out *agentv1.GetResponse, err error) {
	err = c.do(ctx, methodGet, func(ctx context.Context, conn *client.Conn, options ...grpc.CallOption) (err error) {
		out, err = conn.Store.Get(ctx, in, options...)
		return err
	})
	return out, err
}

// Commit implements records.Backend.
func (c *Client) Commit(ctx context.Context, in *agentv1.CommitRequest) (out *agentv1.CommitResponse, err error) {
	err = c.do(ctx, methodCommit, func(ctx context.Context, conn *client.Conn, options ...grpc.CallOption) (err error) {
		out, err = conn.Store.Commit(ctx, in, options...)
		return err
	})
	return out, err
}

// List implements records.Backend.
func (c *Client) List(ctx context.Context, in *agentv1.ListRequest) (list []*agentv1.Record, end *agentv1.ListEnd, err error) {
	err = c.do(ctx, methodList, func(ctx context.Context, conn *client.Conn, options ...grpc.CallOption) (err error) {
		list, end, err = receiveList(ctx, conn.Store, in, options)
		return err
	})
	return list, end, err
}

func receiveList(ctx context.Context, store agentv1.StoreClient, in *agentv1.ListRequest, options []grpc.CallOption) ([]*agentv1.Record, *agentv1.ListEnd, error) {
	stream, err := store.List(ctx, in, options...)
	if err != nil {
		return nil, nil, err
	}
	var list []*agentv1.Record
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "the list ended before it was whole")
		}
		if err != nil {
			return nil, nil, err
		}
		list = append(list, response.GetRecords()...)
		if end := response.GetEnd(); end != nil {
			return list, end, nil
		}
	}
}

// Watch implements records.Backend.
func (c *Client) Watch(ctx context.Context, in *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error) {
	var first *agentv1.WatchResponse
	var stream grpc.ServerStreamingClient[agentv1.WatchResponse]
	conn, err := c.begin(ctx, methodWatch, func(ctx context.Context, conn *client.Conn, options ...grpc.CallOption) (err error) {
		if stream, err = conn.Store.Watch(ctx, in, options...); err == nil {
			first, err = stream.Recv()
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	context.AfterFunc(ctx, func() { c.connections.release(conn) })
	return first, func() (*agentv1.WatchResponse, error) {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "the agent has ended the watch")
		}
		return response, apiError(conn.agent.Address, conn.causeOf(ctx, err), isRead)
	}, nil
}

// Revisions implements records.Backend.
func (c *Client) Revisions(ctx context.Context) (current, oldest uint64, err error) {
	err = c.do(ctx, methodStatus, func(ctx context.Context, conn *client.Conn, options ...grpc.CallOption) error {
		response, err := conn.Status(ctx, options...)
		if err == nil && response.GetReason() != agentv1.Reason_REASON_UNSPECIFIED {
			err = agentv1.NewError(codes.Unavailable, response.GetReason(), "%s", response.GetMessage())
		}
		current, oldest = response.GetRevision(), response.GetCompactRevision()
		return err
	})
	return current, oldest, err
}

// do makes a call that has ended when it returns.
func (c *Client) do(ctx context.Context, m method, f call) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	conn, err := c.begin(ctx, m, f)
	if err == nil {
		c.connections.release(conn)
	}
	return err
}

// begin makes a call, and makes it again where that is safe. The stream of the call
// may go on until the context ends; then the caller releases the connection. The
// call fails when the agent falls silent before it has returned. The error is one of
// the API.
func (c *Client) begin(ctx context.Context, m method, f call) (_ *connection, err error) {
	defer func(start time.Time) { observe(m, start, err) }(time.Now())
	ctx = withCaller(ctx)
	for {
		conn, reused, err := c.connect(ctx)
		if err != nil {
			return nil, err
		}
		guarded, disarm := conn.guard(ctx)
		var sentTo peer.Peer
		err = conn.causeOf(guarded, f(guarded, conn.Conn, grpc.Peer(&sentTo)))
		disarm()
		if err == nil {
			conn.serves.Store(true)
			return conn, nil
		}
		kind := m.kind
		if sentTo.Addr == nil {
			kind = notSent
		}
		again := false
		switch {
		case errors.Is(context.Cause(guarded), errSilent):
			err = errSilent
			c.connections.fail(conn, err)
		case errors.Is(err, errMoved), errors.Is(err, errRebound):
			again = kind != isChange
		case isLost(err):
			// It may have been lost before the call.
			c.connections.drain(conn)
			again = reused && kind != isChange
		case isUnserved(err):
			// Another agent may serve the store by now.
			conn.serves.Store(false)
			agents, _ := c.connections.known()
			again = reused && len(agents) > 1
		}
		c.connections.release(conn)
		if !again {
			return nil, apiError(conn.agent.Address, err, kind)
		}
	}
}

// guard returns a context that ends, with the cause errSilent, when the agent
// stops answering. disarm ends the heartbeat, but not the context.
func (c *connection) guard(ctx context.Context) (_ context.Context, disarm func()) {
	guarded, end := context.WithCancelCause(ctx)
	armed, stop := context.WithCancel(ctx)
	timer := time.AfterFunc(heartbeatInterval, func() {
		for armed.Err() == nil {
			heartbeat, cancel := context.WithTimeout(armed, heartbeatTimeout)
			_, err := c.Status(heartbeat)
			cancel()
			if err != nil && armed.Err() == nil {
				end(errSilent)
				return
			}
			select {
			case <-time.After(heartbeatInterval):
			case <-armed.Done():
			}
		}
	})
	return guarded, func() {
		timer.Stop()
		stop()
	}
}

// withCaller names the request and its user to the agent, for its audit log.
func withCaller(ctx context.Context) context.Context {
	if id := audit.GetAuditIDTruncated(ctx); id != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, agentv1.MetadataAuditID, printable(id))
	}
	if user, ok := request.UserFrom(ctx); ok {
		ctx = metadata.AppendToOutgoingContext(ctx, agentv1.MetadataUser, printable(user.GetName()))
	}
	return ctx
}

// printable encodes what must not be in a header of gRPC, as gRPC does it in
// its own header grpc-message: %XX for each such byte.
func printable(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; '!' <= c && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
