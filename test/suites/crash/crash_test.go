// SPDX-License-Identifier: Apache-2.0

// Package crash kills the real agent, a process of its own on a real SoftHSM
// token, at random instants under load, and checks after each restart that
// nothing that was acknowledged is gone or changed. It never stops the agent
// in order, and never looks into its files. What it waits for is counted in
// acknowledged writes, so that a slow machine proves as much as a fast one.
package crash

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/softhsm"
)

var (
	seed  = flag.Uint64("seed", 1, "what the test draws its requests and instants from")
	kills = flag.Int("kills", 200, "how often the agent is killed under load")
)

const (
	clients       = 8
	keysPerClient = 6
	// maxWrites is how many writes the agent acknowledges at most before it is killed.
	maxWrites = 8
	// hungAfter is when the agent is taken for hung: far beyond what a start or a
	// request takes on the slowest machine.
	hungAfter = 5 * time.Minute
)

// agent is the agent's process, a client of it, and what is started again.
type agent struct {
	*testing.T
	spec  process.Spec
	store agentv1.StoreClient
	// tokenFile is SoftHSM's file of the token itself, tokenFileCopy what was in it.
	tokenFile     string
	tokenFileCopy []byte
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	binary, err := assets.OwnWithRaces(t.Context(), os.Stderr, "agent")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string, usage pki.Usage) mtls.Files {
		cert, key, err := ca.Issue(name, usage)
		if err != nil {
			t.Fatal(err)
		}
		return mtls.Files{CertFile: cert, KeyFile: key, CAFile: ca.CertFile}
	}
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	token, server := softhsm.New(t), issue("agent", pki.Server)
	creds, err := issue(agentv1.ClientAPIServer, pki.Client).Client()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds),
		// The agent is back sooner than the default of a second.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond}, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(agentv1.MaxMessageBytes), grpc.MaxCallSendMsgSize(agentv1.MaxMessageBytes)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	tokenFiles, err := filepath.Glob(filepath.Join(token.Dir, "*", "token.object"))
	if err != nil || len(tokenFiles) != 1 {
		t.Fatalf("files of the token: %q, %v", tokenFiles, err)
	}
	tokenFileCopy, err := os.ReadFile(tokenFiles[0])
	if err != nil {
		t.Fatal(err)
	}
	return &agent{T: t, store: agentv1.NewStoreClient(conn), tokenFile: tokenFiles[0], tokenFileCopy: tokenFileCopy, spec: process.Spec{
		Name: "agent", Path: binary, Env: token.Env, LogFile: filepath.Join(t.TempDir(), "log"),
		Args: []string{
			"--pkcs11-module=" + token.Library, "--token-serial=" + token.Serial, "--pin-file=" + token.PINFile,
			"--state-dir=" + t.TempDir(), "--provision", "--listen=" + address,
			"--tls-cert-file=" + server.CertFile, "--tls-private-key-file=" + server.KeyFile, "--client-ca-file=" + server.CAFile,
		},
	}}
}

// start starts the agent, and does not wait until it is ready.
func (a *agent) start() *process.Process {
	a.Helper()
	p, err := process.Start(a.Context(), a.spec)
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(p.Kill)
	return p
}

// mendTokenFile puts SoftHSM's file of the token back if the kill came when a login
// had emptied it and not yet written it: ObjectFile::writeAttributes of SoftHSM 2.6
// does it in place. docs/operations.md tells people to.
func (a *agent) mendTokenFile() {
	a.Helper()
	content, err := os.ReadFile(a.tokenFile)
	if err == nil && len(content) < len(a.tokenFileCopy) {
		a.Logf("SoftHSM has lost %s: %d of %d bytes are left", a.tokenFile, len(content), len(a.tokenFileCopy))
		err = os.WriteFile(a.tokenFile, a.tokenFileCopy, 0o600)
	}
	if err != nil {
		a.Fatal(err)
	}
}

// awaitReady returns the revision that the agent begins with.
func (a *agent) awaitReady() uint64 {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.Context(), hungAfter)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := a.store.Status(ctx, &agentv1.StatusRequest{}, grpc.WaitForReady(true))
		if err == nil && status.GetReason() == agentv1.Reason_REASON_UNSPECIFIED {
			return status.GetRevision()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			log, _ := os.ReadFile(a.spec.LogFile)
			a.Fatalf("the agent does not become ready: %v, %v\n%s", status, err, log[max(0, len(log)-4096):])
		}
	}
}

// list gives all records, as of one revision.
func (a *agent) list() (map[string]*agentv1.Record, uint64) {
	a.Helper()
	stream, err := a.store.List(a.Context(), &agentv1.ListRequest{})
	if err != nil {
		a.Fatal(err)
	}
	records, revision := map[string]*agentv1.Record{}, uint64(0)
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return records, revision
		}
		if err != nil {
			a.Fatal(err)
		}
		for _, r := range out.GetRecords() {
			records[r.GetKey()] = r
		}
		revision = out.GetEnd().GetRevision()
	}
}

func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	t.Logf("-seed=%d -kills=%d", *seed, *kills)
	a := newAgent(t)
	random := rand.New(rand.NewPCG(*seed, 0))
	var all []*client
	for i := range clients {
		c := &client{agent: a, name: fmt.Sprintf("client-%d", i), random: rand.New(rand.NewPCG(*seed, uint64(i+1)))}
		for j := range keysPerClient {
			c.keys = append(c.keys, &key{name: fmt.Sprintf("%s/key-%d", c.name, j)})
		}
		all = append(all, c)
	}

	underLoad, inRecovery := 0, 0
	var recovery time.Duration // What the last start took.
	for underLoad < *kills {
		p := a.start()
		if random.IntN(8) == 0 { // Killed again before it is ready, or soon after.
			waitForPart(random, recovery)
			p.Kill()
			a.mendTokenFile()
			inRecovery++
			p = a.start()
		}
		began := time.Now()
		revision := a.awaitReady()
		recovery = time.Since(began)
		check(a, all, revision)
		if t.Failed() {
			t.Fatalf("after %d kills", underLoad+inRecovery)
		}
		a.killUnderLoad(p, all, 1+random.IntN(maxWrites), random)
		a.mendTokenFile()
		underLoad++
	}
	a.start()
	check(a, all, a.awaitReady())

	total := tally{}
	for _, c := range all {
		total.add(c.tally)
	}
	t.Logf("%d kills before the agent was ready; %+v", inRecovery, total)
	fmt.Printf("figure: softhsm-kills %d\n", underLoad)
	fmt.Printf("figure: softhsm-acknowledged-writes %d\n", total.acknowledged)
	fmt.Printf("figure: softhsm-lost-writes %d\n", total.lost)
	if total.unknown == 0 {
		t.Errorf("no kill came in the middle of a write: %+v", total)
	}
	log, err := os.ReadFile(a.spec.LogFile)
	if err != nil || bytes.Contains(log, []byte(secret)) {
		t.Errorf("the log shows values, or is not there: %v", err)
	}
}

// killUnderLoad kills the agent once it has acknowledged so many writes, and a
// random part of the time that one of them took: requests are then at any point of
// their way.
func (a *agent) killUnderLoad(p *process.Process, all []*client, writes int, random *rand.Rand) {
	a.Helper()
	acknowledged, killed, ended := make(chan struct{}, 1<<10), make(chan struct{}), make(chan struct{})
	var group sync.WaitGroup
	for _, c := range all {
		group.Go(func() { c.load(acknowledged, killed) })
	}
	go func() { group.Wait(); close(ended) }()
	began, hung := time.Now(), time.After(hungAfter)
	for n := range writes {
		select {
		case <-acknowledged:
		case <-ended:
			a.Fatalf("all clients have ended after %d acknowledged writes of %d", n, writes)
		case <-hung:
			a.Fatalf("%d acknowledged writes of %d in %s", n, writes, hungAfter)
		}
	}
	waitForPart(random, time.Since(began)/time.Duration(writes))
	p.Kill()
	close(killed)
	<-ended
}

// waitForPart waits for a random part of a time.
func waitForPart(random *rand.Rand, whole time.Duration) {
	<-time.After(time.Duration(random.Int64N(int64(whole) + 1)))
}
