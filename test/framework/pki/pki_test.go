// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"j5t.io/hsm/test/framework/pki"
)

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newCA(t), newCA(t)
	serverCert, serverKey := issue(t, ours, "agent", pki.Server, "agent.hsm-system.svc")
	server := serve(t, ours, serverCert, serverKey)

	for name, c := range map[string]struct {
		trusts *pki.CA
		cert   func(t *testing.T) (string, string)
		works  bool
	}{
		"client of the same authority": {trusts: ours, works: true, cert: func(t *testing.T) (string, string) {
			return issue(t, ours, "apiserver", pki.Client)
		}},
		"client of another authority": {trusts: ours, cert: func(t *testing.T) (string, string) {
			return issue(t, theirs, "apiserver", pki.Client)
		}},
		"client that trusts another authority": {trusts: theirs, cert: func(t *testing.T) (string, string) {
			return issue(t, ours, "other", pki.Client)
		}},
		"server certificate used by a client": {trusts: ours, cert: func(t *testing.T) (string, string) {
			return issue(t, ours, "wrong-usage", pki.Server)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cert, key := c.cert(t)
			err := get(server, c.trusts, cert, key)
			if works := err == nil; works != c.works {
				t.Errorf("request works: %t, want %t (%v)", works, c.works, err)
			}
		})
	}
}

func TestUserHasGroups(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	certFile, keyFile, err := ca.IssueUser("system:admin", "system:masters", "ops")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	subject := pair.Leaf.Subject
	if subject.CommonName != "system:admin" || len(subject.Organization) != 2 {
		t.Errorf("subject is %q in %q", subject.CommonName, subject.Organization)
	}
}

func TestIssueAgainReplaces(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	first, firstKey := issue(t, ca, "agent", pki.Server)
	before, err := tls.LoadX509KeyPair(first, firstKey)
	if err != nil {
		t.Fatal(err)
	}
	second, secondKey := issue(t, ca, "agent", pki.Server)
	after, err := tls.LoadX509KeyPair(second, secondKey)
	if err != nil {
		t.Fatal(err)
	}
	if first != second || before.Leaf.SerialNumber.Cmp(after.Leaf.SerialNumber) == 0 {
		t.Errorf("%s: serial numbers %v and %v of files %s", first, before.Leaf.SerialNumber, after.Leaf.SerialNumber, second)
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

func issue(t *testing.T, ca *pki.CA, name string, usage pki.Usage, sans ...string) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile, err := ca.Issue(name, usage, sans...)
	if err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

func serve(t *testing.T, clients *pki.CA, certFile, keyFile string) *httptest.Server {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool(clients),
		MinVersion:   tls.VersionTLS13,
	}
	// A refused handshake is the point of this test, not news.
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func get(server *httptest.Server, trusts *pki.CA, certFile, keyFile string) error {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      pool(trusts),
		MinVersion:   tls.VersionTLS13,
	}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get(server.URL)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

func pool(ca *pki.CA) *x509.CertPool {
	certs := x509.NewCertPool()
	certs.AppendCertsFromPEM(ca.Bundle)
	return certs
}
