// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
)

// TestServingCertificate changes the certificate of our server, then the
// authority that signs it, while requests run: none fails, and nothing is
// restarted.
func TestServingCertificate(t *testing.T) {
	ns := namespace(t)
	_, old := hsm.Authorities()
	pid := hsm.APIServer.PID()
	requests := keepReading(t, ns, func(error) bool { return false })

	certFile, keyFile, err := old.Issue("apiserver", pki.Server, hsm.ServingNames()...)
	must(t, err)
	await.NoError(t, 90*time.Second, func(context.Context) error { return shows(t, apiServerAddress(t), certFile) })

	// Both authorities are trusted while one takes over from the other.
	next, err := pki.NewCA(t.TempDir())
	must(t, err)
	must(t, hsm.Trust(t.Context(), append(append([]byte{}, old.Bundle...), next.Bundle...)))
	nextCert, nextKey, err := next.Issue("apiserver", pki.Server, hsm.ServingNames()...)
	must(t, err)
	replace(t, keyFile, readFile(t, nextKey))
	replace(t, certFile, readFile(t, nextCert))
	await.NoError(t, 90*time.Second, func(context.Context) error { return shows(t, apiServerAddress(t), nextCert) })
	requests.more(t, 20)
	// A changed bundle has kube-apiserver connect anew.
	must(t, hsm.Trust(t.Context(), next.Bundle))
	requests.more(t, 20)

	// Back, for the tests that follow.
	must(t, hsm.Trust(t.Context(), append(append([]byte{}, old.Bundle...), next.Bundle...)))
	_, _, err = old.Issue("apiserver", pki.Server, hsm.ServingNames()...)
	must(t, err)
	await.NoError(t, 90*time.Second, func(context.Context) error { return shows(t, apiServerAddress(t), certFile) })
	must(t, hsm.Trust(t.Context(), old.Bundle))
	requests.stop(t)
	if hsm.APIServer.PID() != pid {
		t.Error("our server was restarted: nothing was proven")
	}
}

// TestAgentCertificates changes the authority between our server and the agent,
// and with it both their certificates. Neither is restarted for that: the agent
// shows its new one to the next connection, and our server, which makes one
// when the agent has gone and come back, trusts it and shows its own: the agent
// lets in no other by then.
func TestAgentCertificates(t *testing.T) {
	ns := namespace(t)
	old, _ := hsm.Authorities()
	agentCert, agentKey, err := old.Issue(agentname.For(hsm.Token.Serial), pki.Server)
	must(t, err)
	files := hsm.AgentClient
	next, err := pki.NewCA(t.TempDir())
	must(t, err)
	t.Cleanup(func() {
		replace(t, files.CAFile, old.Bundle)
		for _, issue := range []func() (string, string, error){
			func() (string, string, error) { return old.Issue(agentname.For(hsm.Token.Serial), pki.Server) },
			func() (string, string, error) { return old.Issue(agentv1.ClientAPIServer, pki.Client) },
		} {
			if _, _, err := issue(); err != nil {
				t.Error(err)
			}
		}
	})
	pid := hsm.APIServer.PID()
	requests := keepReading(t, ns, apierrors.IsServiceUnavailable)

	nextCert, nextKey, err := next.Issue("agent", pki.Server)
	must(t, err)
	clientCert, clientKey, err := next.Issue(agentv1.ClientAPIServer, pki.Client)
	must(t, err)
	replace(t, files.CAFile, append(append([]byte{}, old.Bundle...), next.Bundle...))
	replace(t, agentKey, readFile(t, nextKey))
	replace(t, agentCert, readFile(t, nextCert))
	replace(t, files.KeyFile, readFile(t, clientKey))
	replace(t, files.CertFile, readFile(t, clientCert))
	must(t, shows(t, hsm.AgentAddress, nextCert))
	replace(t, files.CAFile, next.Bundle)
	requests.more(t, 5)

	hsm.Agent.Kill()
	requests.more(t, 1)
	spec := hsm.Agent.Spec
	spec.Ready = nil // It asks with a certificate of the old authority.
	hsm.Agent, err = process.Start(t.Context(), spec)
	must(t, err)
	await.NoError(t, 30*time.Second, func(context.Context) error {
		_, err := secrets(t, hsm.Admin, ns).Get(t.Context(), "db", metav1.GetOptions{})
		return err
	})
	requests.more(t, 20)
	requests.stop(t)
	if hsm.APIServer.PID() != pid {
		t.Error("our server was restarted: nothing was proven")
	}
}

// replace never shows a reader half a file.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".next", content, 0o600); err != nil {
		t.Error(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Error(err)
	}
}

func apiServerAddress(t *testing.T) string {
	t.Helper()
	address, err := url.Parse(direct(t, "").Host)
	must(t, err)
	return address.Host
}

// shows is nil when a server shows the certificate of a file. Whether it is to
// be trusted is for others to decide.
func shows(t *testing.T, address, certFile string) error {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, strings.TrimSuffix(certFile, ".crt")+".key")
	must(t, err)
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: await.Limit(5 * time.Second)}, Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	got := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	if !got.Equal(pair.Leaf) {
		return fmt.Errorf("%s shows certificate %s of %s, want %s", address, got.SerialNumber, got.Issuer, pair.Leaf.SerialNumber)
	}
	return nil
}

// reading reads one HSMSecret again and again, through kube-apiserver.
type reading struct {
	done   atomic.Int64
	cancel context.CancelFunc
	ended  chan error
}

// keepReading begins to. An error that is not tolerated ends it.
func keepReading(t *testing.T, ns string, tolerated func(error) bool) *reading {
	t.Helper()
	_, err := secrets(t, hsm.Admin, ns).Create(t.Context(), secret("db", "one"), metav1.CreateOptions{})
	must(t, err)
	client := secrets(t, hsm.Admin, ns)
	ctx, cancel := context.WithCancel(context.Background())
	r := &reading{cancel: cancel, ended: make(chan error, 1)}
	t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			_, err := client.Get(ctx, "db", metav1.GetOptions{})
			if err != nil && ctx.Err() == nil && !tolerated(err) {
				r.ended <- err
				return
			}
			r.done.Add(1)
		}
		r.ended <- nil
	}()
	return r
}

// more waits for so many reads more.
func (r *reading) more(t *testing.T, n int64) {
	t.Helper()
	until := r.done.Load() + n
	await.NoError(t, 30*time.Second, func(context.Context) error {
		if done := r.done.Load(); done < until {
			return fmt.Errorf("%d of %d reads", done, until)
		}
		return nil
	})
}

func (r *reading) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Errorf("after %d reads: %v", r.done.Load(), err)
	}
	t.Logf("%d reads", r.done.Load())
}
