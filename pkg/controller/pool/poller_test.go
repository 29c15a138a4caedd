// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	agentclient "j5t.io/hsm/pkg/agent/client"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/pki"
)

// agentDouble answers as an agent does.
type agentDouble struct {
	agentv1.UnimplementedStoreServer
	mu     sync.Mutex
	status *agentv1.StatusResponse
}

func (a *agentDouble) Status(context.Context, *agentv1.StatusRequest) (*agentv1.StatusResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status, nil
}

func (a *agentDouble) set(status *agentv1.StatusResponse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = status
}

// serve serves the double at an address, with the certificate of an agent.
func (a *agentDouble) serve(t *testing.T, files mtls.Files, address string) (endpoint string, stop func()) {
	t.Helper()
	creds, err := files.Server()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(creds))
	agentv1.RegisterStoreServer(server, a)
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

func certificates(t *testing.T, ca *pki.CA, name string, usage pki.Usage, sans ...string) mtls.Files {
	t.Helper()
	cert, key, err := ca.Issue(name, usage, sans...)
	if err != nil {
		t.Fatal(err)
	}
	return mtls.Files{CertFile: cert, KeyFile: key, CAFile: ca.CertFile}
}

// TestPoll polls an agent, one that bears another name, and one that is not there.
func TestPoll(t *testing.T) {
	t.Parallel()
	ca, err := pki.NewCA(filepath.Join(t.TempDir(), "agents"))
	if err != nil {
		t.Fatal(err)
	}
	name := agentname.ServerName("A", system)
	double := &agentDouble{status: &agentv1.StatusResponse{StoreId: "5e", Revision: 1}}
	endpoint, stop := double.serve(t, certificates(t, ca, "agent", pki.Server, name), "127.0.0.1:0")

	changes := make(chan struct{}, 1)
	p := newPoller(certificates(t, ca, "hsm-controller", pki.Client), 20*time.Millisecond, func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Start(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	await := func(what string, good func(map[agentclient.Endpoint]*answer) bool) {
		t.Helper()
		limit := time.After(time.Minute)
		for !good(p.lastAnswers()) {
			select {
			case <-changes:
			case <-limit:
				t.Fatalf("%s: it never is: %v", what, p.lastAnswers())
			}
		}
	}

	ours := agentclient.Endpoint{Address: endpoint, ServerName: name}
	other := agentclient.Endpoint{Address: endpoint, ServerName: agentname.ServerName("B", system)}
	absent := agentclient.Endpoint{Address: "127.0.0.1:1", ServerName: name}
	p.setAgents(map[agentclient.Endpoint]bool{ours: true, other: true, absent: true})
	await("an agent serves, two cannot be reached", func(answers map[agentclient.Endpoint]*answer) bool {
		return answers[ours] != nil && answers[ours].status.GetRevision() == 1 && time.Until(answers[ours].expiry) > time.Hour &&
			answers[other] != nil && answers[other].err != nil && answers[absent] != nil && answers[absent].err != nil
	})
	double.set(&agentv1.StatusResponse{StoreId: "5e", Revision: 2})
	await("a new revision", func(answers map[agentclient.Endpoint]*answer) bool { return answers[ours].status.GetRevision() == 2 })

	stop()
	await("the agent is gone", func(answers map[agentclient.Endpoint]*answer) bool { return answers[ours].err != nil })
	if got := p.lastAnswers()[ours]; got.status.GetRevision() != 2 {
		t.Errorf("what it answered last is forgotten: %v", got)
	}
	double.serve(t, certificates(t, ca, "agent", pki.Server, name), endpoint)
	await("it is back", func(answers map[agentclient.Endpoint]*answer) bool { return answers[ours].err == nil })

	p.setAgents(nil)
	if answers := p.lastAnswers(); len(answers) != 0 {
		t.Errorf("agents that are not polled any more have answers: %v", answers)
	}
}

// TestPollWithoutFiles names the flags that are missing.
func TestPollWithoutFiles(t *testing.T) {
	t.Parallel()
	agent := polledAgent{endpoint: agentclient.Endpoint{Address: "127.0.0.1:1"}}
	if _, err := agent.poll(t.Context()); err == nil || !strings.Contains(err.Error(), "--agent-cert-file") {
		t.Errorf("without a certificate: %v", err)
	}
}
