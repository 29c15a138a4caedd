// SPDX-License-Identifier: Apache-2.0

package certs_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"j5t.io/hsm/pkg/agent"
	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/agenttest"
	"j5t.io/hsm/test/framework/softhsm"
)

// mount is a Secret as files, as kubelet keeps them.
type mount struct {
	mtls.Files
	secret string
}

func newMount(t *testing.T, w *world, secret string) *mount {
	t.Helper()
	dir := t.TempDir()
	m := &mount{secret: secret, Files: mtls.Files{
		CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), CAFile: filepath.Join(dir, "ca.crt"),
	}}
	m.refresh(t, w)
	return m
}

func (m *mount) refresh(t *testing.T, w *world) {
	t.Helper()
	for key, value := range w.secret(m.secret).Data {
		must(t, os.WriteFile(filepath.Join(filepath.Dir(m.CertFile), key), value, 0o600))
	}
}

// ask asks the agent at an address, over a connection of its own, for its status.
func ask(t *testing.T, address, serverName string, files mtls.Files) error {
	t.Helper()
	creds, err := files.Client()
	must(t, err)
	return askWith(t, address, serverName, creds)
}

func askWith(t *testing.T, address, serverName string, creds credentials.TransportCredentials) error {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds), grpc.WithAuthority(serverName))
	must(t, err)
	defer func() { must(t, conn.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	_, err = agentv1.NewStoreClient(conn).Status(ctx, &agentv1.StatusRequest{})
	return err
}

// An agent and its clients follow the certificates while they run. Of the two
// sides of a connection either may have got its files a step later.
func TestLiveRotation(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	now := time.Now()
	w := newWorld(t, now.Add(-(3*365-180)*day-73*time.Hour))
	secret, serverName := w.agent(token.Serial)
	w.pass(0)
	w.clock.SetTime(now.Add(-73 * time.Hour)) // Real certificates are checked by real time.
	w.pass(0)
	first := w.certificate(certs.AgentsCASecret)

	server, client := newMount(t, w, secret), newMount(t, w, certs.APIServerClientSecret)
	a := agenttest.Prepare(t, token, func(o *agent.Options) { o.TLS = server.Files })
	a.Restart()
	creds, err := client.Client()
	must(t, err)
	for step := range 4 {
		must(t, askWith(t, a.Address, serverName, creds))
		w.pass(24*time.Hour + time.Minute)
		server.refresh(t, w)
		if err := askWith(t, a.Address, serverName, creds); err != nil {
			t.Errorf("step %d, when only the agent has the new files: %v", step, err)
		}
		client.refresh(t, w)
		if step == 2 {
			w.clock.SetTime(now)
		}
	}
	must(t, askWith(t, a.Address, serverName, creds))
	if w.certificate(certs.AgentsCASecret).Equal(first) {
		t.Fatal("the authority was not rotated")
	}
}

// Who has stolen the certificate of an agent is that agent, and nobody else.
func TestStolenCertificate(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	w := newWorld(t, time.Now())
	secret, serverName := w.agent(token.Serial)
	stolen, _ := w.agent("STOLEN")
	w.pass(0)
	client := newMount(t, w, certs.APIServerClientSecret)

	victim := agenttest.Prepare(t, token, func(o *agent.Options) { o.TLS = newMount(t, w, secret).Files })
	victim.Restart()
	must(t, ask(t, victim.Address, serverName, client.Files))
	if err := ask(t, victim.Address, serverName, newMount(t, w, stolen).Files); err == nil {
		t.Error("an agent was let in as a client")
	}

	impostor := agenttest.Prepare(t, softhsm.New(t), func(o *agent.Options) { o.TLS = newMount(t, w, stolen).Files })
	impostor.Restart()
	must(t, ask(t, impostor.Address, agentname.ServerName("STOLEN", namespace), client.Files))
	if err := ask(t, impostor.Address, serverName, client.Files); err == nil {
		t.Error("an agent was taken for another one")
	}
}
