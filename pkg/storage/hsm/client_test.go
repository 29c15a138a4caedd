// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/test/framework/agenttest"
)

var (
	getKey = &agentv1.GetRequest{Key: "/k"}
	putKey = &agentv1.CommitRequest{Key: "/k", Change: &agentv1.CommitRequest_Put{Put: &agentv1.Put{Data: []byte("v")}}}
)

const (
	// kubectlPatience is how soon a user has to learn that an agent is away.
	kubectlPatience = 5 * time.Second
	// busyPatience is the same on a machine that is busy; test/suites/faults holds the
	// product to less.
	busyPatience = 4 * kubectlPatience
)

func TestAListThatBreaksIsNone(t *testing.T) {
	t.Parallel()
	batch := &agentv1.ListResponse{Records: []*agentv1.Record{{Key: "/a"}, {Key: "/b"}}}
	for name, end := range map[string]error{
		"without an end":      nil,
		"as the token leaves": agentv1.NewError(codes.Unavailable, agentv1.Reason_REASON_TOKEN_ABSENT, "the token was pulled"),
		"with an error":       status.Error(codes.Internal, "broken"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := answering("store", "/k")
			d.list = func(_ *agentv1.ListRequest, stream grpc.ServerStreamingServer[agentv1.ListResponse]) error {
				return errors.Join(stream.Send(batch), end)
			}
			a := newAuthority(t)
			address, _ := a.serve(d, "127.0.0.1:0")
			list, _, err := a.connect(address).List(t.Context(), &agentv1.ListRequest{})
			if err == nil || list != nil {
				t.Errorf("a part was taken for the whole: %v, %v", list, err)
			}
			if agentv1.ReasonOf(end) != agentv1.Reason_REASON_UNSPECIFIED && !apierrors.IsServiceUnavailable(err) {
				t.Errorf("want 503, got %v", err)
			}
		})
	}
}

// TestWhoServesStays until it does not answer any more.
func TestWhoServesStays(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	client := a.connect()
	first, stopFirst := a.serve(answering("store", "/first"), "127.0.0.1:0")
	client.SetAgents(agentsAt(first))
	mustGet(t, client, "/first")
	second, _ := a.serve(answering("store", "/second"), "127.0.0.1:0")
	client.SetAgents(agentsAt(second, first))
	for range 2 {
		mustGet(t, client, "/first")
	}
	stopFirst()
	// The client may not have noticed yet; but a read may be tried again.
	mustGet(t, client, "/second")
	a.serve(answering("store", "/first"), first)
	mustGet(t, client, "/second")
}

func TestAnAgentOfAnotherStoreIsRefused(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	address, stop := a.serve(answering("store", "/k"), "127.0.0.1:0")
	client := a.connect(address)
	mustGet(t, client, "/k")
	stop()

	other := answering("another", "/k")
	other.commit = func(context.Context, *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
		t.Error("a change has reached the other store")
		return &agentv1.CommitResponse{Committed: true}, nil
	}
	_, stop = a.serve(other, address)
	_, err := client.Get(t.Context(), getKey)
	if !apierrors.IsServiceUnavailable(err) || !apierrors.HasStatusCause(err, "TOKEN_FOREIGN") {
		t.Errorf("read: want 503 TOKEN_FOREIGN, got %v", err)
	}
	_, err = client.Commit(t.Context(), putKey)
	if !apierrors.IsServiceUnavailable(err) || !apierrors.HasStatusCause(err, "TOKEN_FOREIGN") {
		t.Errorf("change: want 503 TOKEN_FOREIGN, got %v", err)
	}
	stop()
	a.serve(answering("store", "/k"), address)
	mustGet(t, client, "/k")
}

func TestAnAgentThatKnowsNoStoreYet(t *testing.T) {
	t.Parallel()
	d := answering("", "/k")
	d.status.Reason, d.status.Message = agentv1.Reason_REASON_TOKEN_ABSENT, "plug it in"
	d.get = func(context.Context, *agentv1.GetRequest) (*agentv1.GetResponse, error) {
		t.Error("asked before its store was known")
		return &agentv1.GetResponse{}, nil
	}
	a := newAuthority(t)
	address, _ := a.serve(d, "127.0.0.1:0")
	nobody := "127.0.0.1:1"
	_, err := a.connect(nobody, address).Get(t.Context(), getKey)
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "plug it in") || !strings.Contains(err.Error(), address) {
		t.Errorf("want 503 with the agent's reason, got %v", err)
	}
}

func TestCallerIsTold(t *testing.T) {
	t.Parallel()
	d := answering("store", "/k")
	d.get = func(ctx context.Context, _ *agentv1.GetRequest) (*agentv1.GetResponse, error) {
		header, _ := metadata.FromIncomingContext(ctx)
		key := fmt.Sprint(header.Get(agentv1.MetadataAuditID), header.Get(agentv1.MetadataUser))
		return &agentv1.GetResponse{Record: &agentv1.Record{Key: key}}, nil
	}
	a := newAuthority(t)
	address, _ := a.serve(d, "127.0.0.1:0")
	client := a.connect(address)

	ctx := audit.WithAuditContext(t.Context())
	audit.WithAuditID(ctx, "1234-abcd")
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "Jörg %"})
	response, err := client.Get(ctx, getKey)
	if want := "[1234-abcd] [J%C3%B6rg%20%25]"; err != nil || response.GetRecord().GetKey() != want {
		t.Errorf("got %v, %v; want %s", response, err, want)
	}
	response, err = client.Get(t.Context(), getKey)
	if err != nil || response.GetRecord().GetKey() != "[] []" {
		t.Errorf("without a request: %v, %v", response, err)
	}
}

// TestChangeIsSentOnce: the connection breaks when the agent has a change. Nobody knows
// what becomes of it, and it is not sent again, though the agent can be reached.
func TestChangeIsSentOnce(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	var network *proxy
	var sent atomic.Int32
	d := answering("store", "/k")
	d.commit = func(ctx context.Context, _ *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
		if sent.Add(1) == 1 {
			network.cut()
			<-ctx.Done()
		}
		return &agentv1.CommitResponse{Committed: true}, nil
	}
	address, _ := a.serve(d, "127.0.0.1:0")
	network = newProxy(t, address)
	client := a.connect(network.address)
	mustGet(t, client, "/k")

	if _, err := client.Commit(t.Context(), putKey); !apierrors.IsTimeout(err) {
		t.Errorf("want 504, got %v", err)
	}
	mustGet(t, client, "/k")
	if n := sent.Load(); n != 1 {
		t.Errorf("the change was sent %d times", n)
	}
	if out, err := client.Commit(t.Context(), putKey); err != nil || !out.GetCommitted() {
		t.Errorf("the next change: %v, %v", out, err)
	}
}

// TestAgentIsSilent is of an agent that is stopped, or whose node is gone: its
// connection is there, and nothing comes.
func TestAgentIsSilent(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	d := answering("store", "/k")
	d.commit = func(context.Context, *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
		return &agentv1.CommitResponse{Committed: true}, nil
	}
	address, _ := a.serve(d, "127.0.0.1:0")
	network := newProxy(t, address)
	client := a.connect(network.address)
	mustGet(t, client, "/k")

	network.freeze()
	begun := time.Now()
	_, err := client.Get(t.Context(), getKey)
	if took := time.Since(begun); !apierrors.IsServiceUnavailable(err) || took > busyPatience {
		t.Errorf("read: %v after %s", err, took)
	}
	// Now there is no connection, and none can be made.
	begun = time.Now()
	_, err = client.Get(t.Context(), getKey)
	if took := time.Since(begun); !apierrors.IsServiceUnavailable(err) || took > busyPatience {
		t.Errorf("read without a connection: %v after %s", err, took)
	}
	network.thaw()
	mustGet(t, client, "/k")

	network.freeze()
	_, err = client.Commit(t.Context(), putKey)
	if !apierrors.IsTimeout(err) || !strings.Contains(err.Error(), "may or may not") {
		t.Errorf("write: want a timeout of unknown outcome, got %v", err)
	}
	_, err = client.Commit(t.Context(), putKey)
	if !apierrors.IsServiceUnavailable(err) {
		t.Errorf("write that was not sent: want 503, got %v", err)
	}
}

// TestAnOutageIsToldToAll at once, however many calls there are: those that were
// under way when the agent fell silent, and those that find no connection then.
func TestAnOutageIsToldToAll(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	address, _ := a.serve(answering("store", "/k"), "127.0.0.1:0")
	network := newProxy(t, address)
	client := a.connect(network.address)
	mustGet(t, client, "/k")
	_, next, err := client.Watch(t.Context(), &agentv1.WatchRequest{Prefix: "/"})
	if err != nil {
		t.Fatal(err)
	}
	network.freeze()
	for _, when := range []string{"under way", "without a connection"} {
		var calls sync.WaitGroup
		for range 30 {
			calls.Go(func() {
				begun := time.Now()
				_, err := client.Get(t.Context(), getKey)
				if took := time.Since(begun); !apierrors.IsServiceUnavailable(err) || took > busyPatience {
					t.Errorf("%s: %v after %s", when, err, took)
				}
			})
		}
		calls.Wait()
	}
	if _, err := next(); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("watch: want 503, got %v", err)
	}
}

// TestABusyTokenIsWaitedFor is of an agent that is alive, and has no answer yet.
func TestABusyTokenIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := answering("store", "/k")
	answer := make(chan struct{})
	slow := d.get
	d.get = func(ctx context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
		<-answer
		return slow(ctx, in)
	}
	a := newAuthority(t)
	address, _ := a.serve(d, "127.0.0.1:0")
	time.AfterFunc(kubectlPatience, func() { close(answer) })
	mustGet(t, a.connect(address), "/k")

	stuck := answering("store", "/k")
	stuck.get = func(ctx context.Context, _ *agentv1.GetRequest) (*agentv1.GetResponse, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	address, _ = a.serve(stuck, "127.0.0.1:0")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := a.connect(address).Get(ctx, getKey); !apierrors.IsTimeout(err) {
		t.Errorf("want a timeout, got %v", err)
	}
}

func TestOtherAuthorityIsRefused(t *testing.T) {
	t.Parallel()
	address, _ := newAuthority(t).serve(answering("store", "/k"), "127.0.0.1:0")
	if _, err := newAuthority(t).connect(address).Get(t.Context(), getKey); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("want 503, got %v", err)
	}
}

func TestClosedClient(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	address, _ := a.serve(answering("store", "/k"), "127.0.0.1:0")
	client := a.connect(address)
	mustGet(t, client, "/k")
	for range 2 {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := client.Get(t.Context(), getKey); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("want 503, got %v", err)
	}
}

// TestAgentRestarts is of a real agent.
func TestAgentRestarts(t *testing.T) {
	a := agenttest.Start(t)
	client := newClient(t, a)
	response, err := client.Commit(t.Context(), putKey)
	if err != nil || !response.GetCommitted() {
		t.Fatalf("%v, %v", response, err)
	}
	_, next, err := client.Watch(t.Context(), &agentv1.WatchRequest{Prefix: "/"})
	if err != nil {
		t.Fatal(err)
	}
	a.Stop()
	if event, err := next(); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("watch: want 503, got %v, %v", event, err)
	}
	if _, err := client.Get(t.Context(), getKey); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("get: want 503, got %v", err)
	}
	a.Restart()
	a.WaitReady()
	mustGet(t, client, "/k")
}

// mustGet may be called by any goroutine.
func mustGet(t *testing.T, client *hsm.Client, key string) {
	t.Helper()
	response, err := client.Get(t.Context(), getKey)
	if err != nil || response.GetRecord().GetKey() != key {
		t.Errorf("got %v, %v; want %s", response.GetRecord(), err, key)
	}
}
