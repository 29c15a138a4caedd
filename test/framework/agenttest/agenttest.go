// SPDX-License-Identifier: Apache-2.0

// Package agenttest runs a real agent inside of a test: on a SoftHSM token of
// its own, over mutual TLS, on a free port of loopback. It ends with the test.
package agenttest

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"j5t.io/hsm/pkg/agent"
	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/softhsm"
)

// readyTimeout is how long an agent may take to serve its token.
const readyTimeout = 5 * time.Minute

// Agent is a running agent.
type Agent struct {
	*agent.Agent // Of the current run.

	Address string     // Host and port; the same after a restart.
	Client  mtls.Files // With which a client may connect.
	CA      *pki.CA    // That signed both sides' certificates.
	Token   softhsm.Token
	Options agent.Options // Of the next restart.

	t    testing.TB
	conn *grpc.ClientConn
	stop func()
}

// Start makes a token, and starts an agent that has provisioned it and is
// ready. Each edit may change the agent's options before.
func Start(t testing.TB, edits ...func(*agent.Options)) *Agent {
	t.Helper()
	a := Prepare(t, softhsm.New(t), edits...)
	a.Restart()
	a.WaitReady()
	return a
}

// Prepare is as Start, for a given token, but does not start the agent: Restart
// does. It need not become ready.
func Prepare(t testing.TB, token softhsm.Token, edits ...func(*agent.Options)) *Agent {
	t.Helper()
	ca, err := pki.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files := func(name string, usage pki.Usage) mtls.Files {
		cert, key, err := ca.Issue(name, usage)
		if err != nil {
			t.Fatal(err)
		}
		return mtls.Files{CertFile: cert, KeyFile: key, CAFile: ca.CertFile}
	}
	a := &Agent{
		Address: "127.0.0.1:0",
		Client:  files(agentv1.ClientAPIServer, pki.Client),
		CA:      ca,
		Token:   token,
		Options: agent.Options{
			Module:    token.Library,
			Token:     pkcs11.Selector{Serial: token.Serial},
			PINFile:   token.PINFile,
			StateDir:  t.TempDir(),
			Provision: true,
			TLS:       files("agent", pki.Server),
		},
		t: t, stop: func() {},
	}
	for _, edit := range edits {
		edit(&a.Options)
	}
	t.Cleanup(func() {
		if a.conn != nil {
			_ = a.conn.Close()
		}
		a.Stop()
	})
	return a
}

// Stop ends the agent as SIGTERM does.
func (a *Agent) Stop() {
	a.t.Helper()
	a.stop()
	a.stop = func() {}
}

// Restart starts the agent, on the same token, state directory and address.
// It stops it first if it runs.
func (a *Agent) Restart() {
	a.t.Helper()
	a.Stop()
	made, err := agent.New(a.Options)
	if err != nil {
		a.t.Fatal(err)
	}
	a.Agent = made
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", a.Address)
	if err != nil {
		a.t.Fatal(err)
	}
	a.Address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- made.Run(ctx, listener) }()
	a.stop = func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Errorf("agent: %v", err)
		}
	}
}

// Conn is a connection to the agent, which outlives its restarts.
func (a *Agent) Conn() *grpc.ClientConn {
	a.t.Helper()
	if a.conn == nil {
		creds, err := a.Client.Client()
		if err != nil {
			a.t.Fatal(err)
		}
		a.conn, err = grpc.NewClient(a.Address, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(
			grpc.WaitForReady(true),
			grpc.MaxCallRecvMsgSize(agentv1.MaxMessageBytes), grpc.MaxCallSendMsgSize(agentv1.MaxMessageBytes)))
		if err != nil {
			a.t.Fatal(err)
		}
	}
	return a.conn
}

// Store is a client of the agent.
func (a *Agent) Store() agentv1.StoreClient {
	a.t.Helper()
	return agentv1.NewStoreClient(a.Conn())
}

// WaitReady returns when the agent serves its token.
func (a *Agent) WaitReady() {
	a.t.Helper()
	a.WaitReason(agentv1.Reason_REASON_UNSPECIFIED)
}

// WaitReason returns when the agent gives a reason for not serving its token.
func (a *Agent) WaitReason(want agentv1.Reason) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := a.Store().Status(ctx, &agentv1.StatusRequest{})
		if err != nil {
			a.t.Fatalf("agent does not come to %s: %v", want, err)
		}
		if status.GetReason() == want {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			a.t.Fatalf("agent does not come to %s: %s: %s", want, status.GetReason(), status.GetMessage())
		}
	}
}
