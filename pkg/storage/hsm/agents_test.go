// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/hsm"
)

func TestNoAgent(t *testing.T) {
	t.Parallel()
	client, err := hsm.NewClient(newCluster(), newAuthority(t).client)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, when := range []string{"not known yet", "none"} {
		if _, err := client.Get(t.Context(), getKey); !apierrors.IsServiceUnavailable(err) || !apierrors.HasStatusCause(err, hsm.CauseNoAgent) {
			t.Errorf("%s: want 503 NO_AGENT, got %v", when, err)
		}
		client.SetAgents(nil)
	}
}

// TestAgentMoves is of a store that is to be reached at another address.
func TestAgentMoves(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	before, asked := answering("store", "/before"), make(chan struct{}, 2)
	client := a.connect()
	first, _ := a.serve(before, "127.0.0.1:0")
	second, _ := a.serve(answering("store", "/after"), "127.0.0.1:0")
	client.SetAgents(agentsAt(first))
	mustGet(t, client, "/before")
	_, next, err := client.Watch(t.Context(), &agentv1.WatchRequest{Prefix: "/"})
	if err != nil {
		t.Fatal(err)
	}
	before.get = func(ctx context.Context, _ *agentv1.GetRequest) (*agentv1.GetResponse, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	before.commit = func(ctx context.Context, _ *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	var calls sync.WaitGroup
	calls.Go(func() { mustGet(t, client, "/after") })
	calls.Go(func() {
		if _, err := client.Commit(t.Context(), putKey); !apierrors.IsTimeout(err) {
			t.Errorf("a change that may have been made: want 504, got %v", err)
		}
	})
	<-asked
	<-asked
	client.SetAgents(agentsAt(second))
	calls.Wait()
	if _, err := next(); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("watch: want 503, got %v", err)
	}
	client.SetAgents(agentsAt())
	if _, err := client.Get(t.Context(), getKey); !apierrors.HasStatusCause(err, hsm.CauseNoAgent) {
		t.Errorf("want 503 NO_AGENT, got %v", err)
	}
}

// TestAgentComesWhileOthersAreTried does not wait for those who are silent.
func TestAgentComesWhileOthersAreTried(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	accepted := make(chan struct{}, 1)
	client := a.connect(silent(t, accepted))
	done := make(chan struct{})
	go func() {
		defer close(done)
		mustGet(t, client, "/k")
	}()
	<-accepted
	address, _ := a.serve(answering("store", "/k"), "127.0.0.1:0")
	client.SetAgents(agentsAt(address))
	<-done
}

// TestManyAgentsAreSilent tells an outage as soon as one does, and none if one serves.
func TestManyAgentsAreSilent(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	var addresses []string
	for range 12 {
		addresses = append(addresses, silent(t, nil))
	}
	begun := time.Now()
	_, err := a.connect(addresses...).Get(t.Context(), getKey)
	if took := time.Since(begun); !apierrors.HasStatusCause(err, hsm.CauseAgentUnreachable) || took > busyPatience {
		t.Errorf("all silent: %v after %s", err, took)
	}
	cluster := newCluster()
	address, _ := a.serve(answering("store", "/k"), "127.0.0.1:0")
	mustGet(t, a.connectIn(cluster, append(addresses, address)...), "/k")
	// Now that the store is known, nobody waits for the others.
	client := a.connectIn(cluster, append(addresses, address)...)
	begun = time.Now()
	mustGet(t, client, "/k")
	t.Logf("served after %s beside 12 silent agents", time.Since(begun))
}

// silent accepts connections, and says nothing.
func silent(t *testing.T, accepted chan<- struct{}) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); wg.Wait() })
	wg.Go(func() {
		var conns []net.Conn
		defer func() {
			for _, c := range conns {
				_ = c.Close()
			}
		}()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			select {
			case accepted <- struct{}{}:
			default:
			}
		}
	})
	return listener.Addr().String()
}

// TestWhoServesIsPreferred asks another agent of the store when one does not serve it.
func TestWhoServesIsPreferred(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	doubles := []*double{answering("store", "/first"), answering("store", "/second")}
	ok := []func(context.Context, *agentv1.GetRequest) (*agentv1.GetResponse, error){doubles[0].get, doubles[1].get}
	var away atomic.Int32 // Index of the one whose token is away.
	pull := func(i int) {
		away.Store(int32(i))
		doubles[i].say(agentv1.Reason_REASON_TOKEN_ABSENT, "plug it in")
		doubles[1-i].say(agentv1.Reason_REASON_UNSPECIFIED, "")
	}
	var addresses []string
	for i, d := range doubles {
		d.get = func(ctx context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
			if away.Load() == int32(i) {
				return nil, agentv1.NewError(codes.Unavailable, agentv1.Reason_REASON_TOKEN_ABSENT, "plug it in")
			}
			return ok[i](ctx, in)
		}
		address, _ := a.serve(d, "127.0.0.1:0")
		addresses = append(addresses, address)
	}
	pull(0)
	client := a.connect(addresses...)
	mustGet(t, client, "/second")
	pull(1)
	mustGet(t, client, "/first")

	// When none serves, the agent's own reason is told, and watches go on.
	_, next, err := client.Watch(t.Context(), &agentv1.WatchRequest{Prefix: "/"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := next()
		ended <- err
	}()
	doubles[0].say(agentv1.Reason_REASON_TOKEN_ABSENT, "plug it in")
	client.SetAgents(agentsAt(addresses[0]))
	away.Store(0)
	client.SetAgents(agentsAt(addresses[0], "127.0.0.1:1"))
	for range 3 {
		if _, err := client.Get(t.Context(), getKey); !apierrors.HasStatusCause(err, "TOKEN_ABSENT") {
			t.Errorf("want 503 TOKEN_ABSENT, got %v", err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the watch has ended: %v", err)
	default:
	}
}

func TestServerName(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	address, _ := a.serve(answering("store", "/k"), "127.0.0.1:0")
	client := a.connect()
	client.SetAgents([]hsm.Agent{{Address: address, ServerName: serverName}})
	mustGet(t, client, "/k")
	client.SetAgents([]hsm.Agent{{Address: address, ServerName: "hsm-agent-another.hsm-system.svc"}})
	if _, err := client.Get(t.Context(), getKey); !apierrors.HasStatusCause(err, hsm.CauseAgentUnreachable) {
		t.Errorf("an agent of another name: want 503, got %v", err)
	}
}

// connections counts those that a server has accepted.
type connections struct{ begun, ended atomic.Int32 }

func (*connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*connections) HandleRPC(context.Context, stats.RPCStats)                         {}
func (*connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		c.begun.Add(1)
	case *stats.ConnEnd:
		c.ended.Add(1)
	}
}

// TestConnectionAge is of an agent that lets nobody stay: calls never fail for
// it, watches go on until they end, and no connection is left behind.
func TestConnectionAge(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	seen := &connections{}
	address, _ := a.serve(answering("store", "/k"), "127.0.0.1:0", grpc.StatsHandler(seen),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 50 * time.Millisecond, MaxConnectionAgeGrace: time.Minute}))
	client := a.connect(address)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, next, err := client.Watch(ctx, &agentv1.WatchRequest{Prefix: "/"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := next()
		ended <- err
	}()
	for deadline := time.Now().Add(time.Minute); seen.begun.Load() < 5; {
		mustGet(t, client, "/k")
		if time.Now().After(deadline) {
			t.Fatalf("%d connections after a minute", seen.begun.Load())
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the watch has ended: %v", err)
	default:
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the watch goes on though its reader has gone")
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Minute); seen.ended.Load() < seen.begun.Load(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d connections were ended", seen.ended.Load(), seen.begun.Load())
		}
	}
}
