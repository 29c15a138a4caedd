// SPDX-License-Identifier: Apache-2.0

package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/pki"
)

func TestWhoMayConnect(t *testing.T) {
	t.Parallel()
	ours, theirs := newCA(t), newCA(t)
	address := serve(t, issue(t, ours, "agent", pki.Server, ours))
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files   mtls.Files
		address string
		works   bool
	}{
		"client of the authority":            {files: issue(t, ours, "apiserver", pki.Client, ours), works: true},
		"host name of the certificate":       {files: issue(t, ours, "apiserver2", pki.Client, ours), address: "localhost:" + port, works: true},
		"client of another authority":        {files: issue(t, theirs, "apiserver", pki.Client, ours)},
		"server of another authority":        {files: issue(t, ours, "apiserver3", pki.Client, theirs)},
		"agent that acts as a client":        {files: issue(t, ours, "agent2", pki.Server, ours)},
		"address that the certificate lacks": {files: issue(t, ours, "apiserver4", pki.Client, ours), address: "127.0.0.2:" + port},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.address == "" {
				c.address = address
			}
			_, err := check(t, dial(t, c.files, c.address))
			if works := err == nil; works != c.works {
				t.Errorf("request works: %t, want %t (%v)", works, c.works, err)
			}
		})
	}
}

func TestOldVersionIsRefused(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	address := serve(t, issue(t, ca, "agent", pki.Server, ca))
	files := issue(t, ca, "apiserver", pki.Client, ca)
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Bundle)
	for version, works := range map[uint16]bool{tls.VersionTLS12: false, tls.VersionTLS13: true} {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: version, MaxVersion: version,
		})))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := check(t, conn); (err == nil) != works {
			t.Errorf("%s works: %t, want %t (%v)", tls.VersionName(version), err == nil, works, err)
		}
	}
}

func TestRotationNeedsNoRestart(t *testing.T) {
	t.Parallel()
	old, dir := newCA(t), t.TempDir()
	bundle := filepath.Join(dir, "ca.crt")
	write(t, bundle, old.Bundle)
	server, client := issue(t, old, "agent", pki.Server, old), issue(t, old, "apiserver", pki.Client, old)
	server.CAFile, client.CAFile = bundle, bundle
	address := serve(t, server)
	creds, err := client.Client()
	if err != nil {
		t.Fatal(err)
	}
	before, err := check(t, dialWith(t, creds, address))
	if err != nil {
		t.Fatal(err)
	}

	// A new authority, and new certificates of it, in the same files.
	renewed := newCA(t)
	write(t, bundle, renewed.Bundle)
	replace(t, server, issue(t, renewed, "agent", pki.Server, renewed))
	stale := issue(t, old, "stale", pki.Client, renewed)
	replace(t, client, issue(t, renewed, "apiserver", pki.Client, renewed))
	after, err := check(t, dialWith(t, creds, address))
	if err != nil {
		t.Fatalf("after the rotation: %v", err)
	}
	if before.Equal(after) {
		t.Error("the server still shows its old certificate")
	}
	if _, err := check(t, dial(t, stale, address)); err == nil {
		t.Error("a client of the old authority is still accepted")
	}
}

func TestErrorsNameTheFile(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	good := issue(t, ca, "agent", pki.Server, ca)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	write(t, empty, nil)
	for name, files := range map[string]mtls.Files{
		"missing.pem": {CertFile: "missing.pem", KeyFile: good.KeyFile, CAFile: good.CAFile},
		"empty.pem":   {CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: empty},
		"gone.pem":    {CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: "gone.pem"},
	} {
		_, serverErr := files.Server()
		_, clientErr := files.Client()
		for _, err := range []error{serverErr, clientErr} {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v does not name %s", err, name)
			}
		}
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

func issue(t *testing.T, ca *pki.CA, name string, usage pki.Usage, trusts *pki.CA) mtls.Files {
	t.Helper()
	cert, key, err := ca.Issue(name, usage)
	if err != nil {
		t.Fatal(err)
	}
	return mtls.Files{CertFile: cert, KeyFile: key, CAFile: trusts.CertFile}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, old, by mtls.Files) {
	t.Helper()
	for from, to := range map[string]string{by.CertFile: old.CertFile, by.KeyFile: old.KeyFile} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, to, content)
	}
}

// serve runs a gRPC server that offers health, and ends it with the test.
func serve(t *testing.T, files mtls.Files) (address string) {
	t.Helper()
	creds, err := files.Server()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(creds))
	healthv1.RegisterHealthServer(server, health.NewServer())
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func dial(t *testing.T, files mtls.Files, address string) *grpc.ClientConn {
	t.Helper()
	creds, err := files.Client()
	if err != nil {
		t.Fatal(err)
	}
	return dialWith(t, creds, address)
}

func dialWith(t *testing.T, creds credentials.TransportCredentials, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// check makes a request and returns the certificate that the server showed.
func check(t *testing.T, conn *grpc.ClientConn) (*x509.Certificate, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var server peer.Peer
	_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Peer(&server))
	if err != nil {
		return nil, err
	}
	return server.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0], nil
}
