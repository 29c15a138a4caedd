// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/softhsm"
)

// asAgent makes the test binary be the agent.
const asAgent = "TEST_AS_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func issue(t *testing.T, ca *pki.CA, usage pki.Usage) mtls.Files {
	t.Helper()
	cert, key, err := ca.Issue(agentv1.ClientAPIServer, usage)
	if err != nil {
		t.Fatal(err)
	}
	return mtls.Files{CertFile: cert, KeyFile: key, CAFile: ca.CertFile}
}

func flags(token softhsm.Token, server mtls.Files, stateDir, listen string) map[string]string {
	return map[string]string{
		"pkcs11-module": token.Library, "token-serial": token.Serial, "pin-file": token.PINFile,
		"state-dir": stateDir, "provision": "true", "listen": listen,
		"tls-cert-file": server.CertFile, "tls-private-key-file": server.KeyFile, "client-ca-file": server.CAFile,
	}
}

func args(flags map[string]string) (args []string) {
	for name, value := range flags {
		args = append(args, fmt.Sprintf("--%s=%s", name, value))
	}
	return args
}

func TestMistakesInFlags(t *testing.T) {
	t.Parallel()
	token, ca := softhsm.New(t), newCA(t)
	server := issue(t, ca, pki.Server)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ flag, value, says string }{
		"no module":             {"pkcs11-module", "", "--pkcs11-module is required"},
		"missing module":        {"pkcs11-module", "/nowhere/module.so", "/nowhere/module.so"},
		"no PKCS#11 module":     {"pkcs11-module", server.CertFile, "not a PKCS#11 module"},
		"no token":              {"token-serial", "", "--token-serial, --token-label and --slot"},
		"missing PIN file":      {"pin-file", "/nowhere/pin", "/nowhere/pin"},
		"empty PIN file":        {"pin-file", empty, "is empty"},
		"missing state":         {"state-dir", "/nowhere/state", "/nowhere/state"},
		"missing key":           {"tls-private-key-file", "/nowhere/key", "/nowhere/key"},
		"store id":              {"store-id", "xyz", "not hexadecimal"},
		"SO PIN to no purpose":  {"provision", "false", "--so-pin-file is of use only with --provision"},
		"unknown flag":          {"bogus", "1", "--bogus"},
		"address of no machine": {"listen", "127.0.0.1:x", "--listen"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			given := flags(token, server, t.TempDir(), "127.0.0.1:0")
			if c.flag == "provision" {
				given["so-pin-file"] = token.SOPINFile
			}
			given[c.flag] = c.value
			cmd := exec.CommandContext(t.Context(), os.Args[0], args(given)...)
			cmd.Env = append(os.Environ(), asAgent+"=1")
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("ended with %v, want exit code 1: %s", err, out)
			}
			if !strings.Contains(string(out), c.says) || strings.Count(string(out), "\n") != 1 {
				t.Errorf("output is not one line with %q:\n%s", c.says, out)
			}
		})
	}
}

func TestAgentProcess(t *testing.T) {
	t.Parallel()
	token, ca := softhsm.New(t), newCA(t)
	server, client, state := issue(t, ca, pki.Server), issue(t, ca, pki.Client), t.TempDir()
	listen, metrics := freeAddress(t), freeAddress(t)
	conn := dial(t, client, listen)
	spec := process.Spec{
		Name: "agent", Path: os.Args[0], Args: append(args(flags(token, server, state, listen)), "--metrics-listen="+metrics),
		Env:     append(token.Env, asAgent+"=1"),
		LogFile: filepath.Join(t.TempDir(), "log"),
		Ready: func(ctx context.Context) error {
			got, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
			if err == nil && got.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				err = fmt.Errorf("health is %s", got.GetStatus())
			}
			return err
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	start := func() *process.Process {
		t.Helper()
		p, err := process.Start(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		return p
	}

	p := start()
	store := agentv1.NewStoreClient(conn)
	var last uint64
	for i := range 20 {
		out, err := store.Commit(ctx, &agentv1.CommitRequest{Key: fmt.Sprint(i), Change: &agentv1.CommitRequest_Put{
			Put: &agentv1.Put{Data: []byte("value")},
		}})
		if err != nil || !out.GetCommitted() || out.GetRevision() <= last {
			t.Fatalf("commit says %v, %v", out, err)
		}
		last = out.GetRevision()
	}
	p.Kill()

	p = start()
	got, err := store.Get(ctx, &agentv1.GetRequest{Key: "19"})
	if err != nil || string(got.GetRecord().GetData()) != "value" || got.GetRecord().GetRevision() != last || got.GetRevision() != last {
		t.Errorf("after kill -9 the record is %v, %v; it was written at %d", got, err, last)
	}
	if figures := scrape(t, metrics); !strings.Contains(figures, `hsm_token_served{reason="OK"} 1`) || !strings.Contains(figures, "process_resident_memory_bytes") {
		t.Errorf("metrics are\n%s", figures)
	}
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(spec.LogFile)
	if err != nil || !strings.Contains(string(log), "Value written") || strings.Contains(string(log), token.PIN) {
		t.Errorf("log is %s, %v", log, err)
	}
}

func scrape(t *testing.T, address string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// Probes have no certificate: an agent whose token is away is alive and not ready,
// and tells them nothing else.
func TestHealth(t *testing.T) {
	t.Parallel()
	token, ca := softhsm.New(t), newCA(t)
	given := flags(token, issue(t, ca, pki.Server), t.TempDir(), "127.0.0.1:0")
	given["token-serial"] = "absent"
	given["health-listen"] = freeAddress(t)
	conn, err := grpc.NewClient(given["health-listen"], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	says := func(ctx context.Context, service string) (healthv1.HealthCheckResponse_ServingStatus, error) {
		got, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
		return got.GetStatus(), err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	p, err := process.Start(ctx, process.Spec{
		Name: "agent", Path: os.Args[0], Args: args(given), Env: append(token.Env, asAgent+"=1"), LogFile: filepath.Join(t.TempDir(), "log"),
		Ready: func(ctx context.Context) error {
			got, err := says(ctx, agentv1.LivenessService)
			if err == nil && got != healthv1.HealthCheckResponse_SERVING {
				err = fmt.Errorf("liveness is %s", got)
			}
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if got, err := says(ctx, ""); err != nil || got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the store that is away: %s, %v", got, err)
	}
	_, err = agentv1.NewStoreClient(conn).Status(ctx, &agentv1.StatusRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("without a certificate, Status answers %v", err)
	}
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func dial(t *testing.T, files mtls.Files, address string) *grpc.ClientConn {
	t.Helper()
	creds, err := files.Client()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
