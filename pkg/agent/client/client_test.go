// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/client"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/pki"
)

const serverName = "hsm-agent-double.hsm-system.svc"

// double is an agent that counts its connections and calls.
type double struct {
	agentv1.UnimplementedStoreServer
	agentv1.UnimplementedDeviceServer
	message      string // Of its status.
	fails        error
	begun, ended atomic.Int32
	mu           sync.Mutex
	calls        []string
}

func (d *double) Status(context.Context, *agentv1.StatusRequest) (*agentv1.StatusResponse, error) {
	return &agentv1.StatusResponse{StoreId: "5e", Message: d.message}, d.fails
}

func (d *double) Get(context.Context, *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	return &agentv1.GetResponse{Revision: 7}, nil
}

func (d *double) Random(context.Context, *agentv1.RandomRequest) (*agentv1.RandomResponse, error) {
	return &agentv1.RandomResponse{Data: []byte{4}}, nil
}

func (d *double) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, info.FullMethodName[strings.LastIndexByte(info.FullMethodName, '/')+1:])
	return ctx
}
func (*double) HandleRPC(context.Context, stats.RPCStats)                         {}
func (*double) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (d *double) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		d.begun.Add(1)
	case *stats.ConnEnd:
		d.ended.Add(1)
	}
}

func (d *double) seen() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.calls, " ")
}

// serve serves the double at an address, which is a free one if it has port 0. Each has
// a certificate of its own: those of one name share a file, which the next would replace.
func (d *double) serve(t *testing.T, ca *pki.CA, address string) (_ string, stop func()) {
	t.Helper()
	creds, err := files(t, ca, fmt.Sprintf("agent-%p", d), pki.Server, serverName).Server()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(creds), grpc.StatsHandler(d))
	agentv1.RegisterStoreServer(server, d)
	agentv1.RegisterDeviceServer(server, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	stop = sync.OnceFunc(func() {
		server.Stop()
		<-done
	})
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func files(t *testing.T, ca *pki.CA, name string, usage pki.Usage, names ...string) mtls.Files {
	t.Helper()
	cert, key, err := ca.Issue(name, usage, names...)
	if err != nil {
		t.Fatal(err)
	}
	return mtls.Files{CertFile: cert, KeyFile: key, CAFile: ca.CertFile}
}

func newDialer(t *testing.T, ca *pki.CA, options ...grpc.DialOption) *client.Dialer {
	t.Helper()
	dialer, err := client.NewDialer(files(t, ca, "client", pki.Client), options...)
	if err != nil {
		t.Fatal(err)
	}
	return dialer
}

func soon(t *testing.T, what string, condition func() bool) {
	t.Helper()
	await.NoError(t, time.Minute, func(context.Context) error {
		if !condition() {
			return errors.New(what + ": not yet")
		}
		return nil
	})
}

// TestDial also shows that an agent hears nothing before its first Status.
func TestDial(t *testing.T) {
	t.Parallel()
	ca, agent := newCA(t), &double{}
	address, _ := agent.serve(t, ca, "127.0.0.1:0")
	conn, first, err := newDialer(t, ca).Dial(t.Context(), client.Endpoint{Address: address, ServerName: serverName})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if first.GetStoreId() != "5e" || !conn.Usable() || time.Until(conn.CertificateExpiry()) < time.Minute {
		t.Errorf("first status %v, usable %t, certificate until %s", first, conn.Usable(), conn.CertificateExpiry())
	}
	if response, err := conn.Store.Get(t.Context(), &agentv1.GetRequest{}); err != nil || response.GetRevision() != 7 {
		t.Errorf("Get: %v, %v", response, err)
	}
	if response, err := conn.Device.Random(t.Context(), &agentv1.RandomRequest{}); err != nil || len(response.GetData()) != 1 {
		t.Errorf("Random: %v, %v", response, err)
	}
	if got, want := agent.seen(), "Status Get Random"; got != want {
		t.Errorf("the agent was asked for %q, want %q", got, want)
	}
}

// TestDialRefuses lists who is not let in. Nobody keeps a connection.
func TestDialRefuses(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	for name, c := range map[string]struct {
		agent  *double
		dialer *client.Dialer
		server string
		code   codes.Code
	}{
		"an agent of another name":       {&double{}, newDialer(t, ca), "hsm-agent-other.hsm-system.svc", codes.Unavailable},
		"an agent of another authority":  {&double{}, newDialer(t, newCA(t)), serverName, codes.Unavailable},
		"an agent that fails":            {&double{fails: status.Error(codes.PermissionDenied, "no")}, newDialer(t, ca), serverName, codes.PermissionDenied},
		"an agent whose status is large": {&double{message: strings.Repeat("a", 2<<20)}, newDialer(t, ca), serverName, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, _ := c.agent.serve(t, ca, "127.0.0.1:0")
			conn, _, err := c.dialer.Dial(t.Context(), client.Endpoint{Address: address, ServerName: c.server})
			if conn != nil || status.Code(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
			soon(t, "its connection is closed", func() bool { return c.agent.ended.Load() == c.agent.begun.Load() })
		})
	}
}

func TestDialNobody(t *testing.T) {
	t.Parallel()
	dialer := newDialer(t, newCA(t))
	if _, _, err := dialer.Dial(t.Context(), client.Endpoint{Address: "127.0.0.1:1"}); status.Code(err) != codes.Unavailable {
		t.Errorf("nobody listens: %v", err)
	}
	// It accepts connections in its backlog, and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := dialer.Dial(ctx, client.Endpoint{Address: silent.Addr().String()}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("silence: %v", err)
	}
}

// TestLostStaysLost: who listens at the address now may be another agent.
func TestLostStaysLost(t *testing.T) {
	t.Parallel()
	ca, before, after := newCA(t), &double{}, &double{}
	address, stop := before.serve(t, ca, "127.0.0.1:0")
	dialer := newDialer(t, ca)
	conn, _, err := dialer.Dial(t.Context(), client.Endpoint{Address: address, ServerName: serverName})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stop()
	soon(t, "the loss is seen", func() bool { return !conn.Usable() })
	after.serve(t, ca, address)
	for range 3 {
		if _, err := conn.Status(t.Context(), grpc.WaitForReady(false)); status.Code(err) != codes.Unavailable {
			t.Errorf("a lost connection: %v", err)
		}
	}
	if n := after.begun.Load(); n != 0 || conn.Usable() {
		t.Errorf("%d connections were made again", n)
	}
	again, _, err := dialer.Dial(t.Context(), client.Endpoint{Address: address, ServerName: serverName})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	again.Close()
}
