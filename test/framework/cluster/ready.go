// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/pki"
)

// answerTimeout is when a process that does not answer is asked again.
const answerTimeout = 30 * time.Second

// AgentServes is nil when the agent serves its store.
func (c *Cluster) AgentServes(ctx context.Context) error {
	status, err := c.AgentStatus(ctx, c.AgentAddress)
	if err != nil {
		return err
	}
	if reason := status.GetReason(); reason != agentv1.Reason_REASON_UNSPECIFIED {
		return fmt.Errorf("%s: %s", reason, status.GetMessage())
	}
	return nil
}

// AgentStatus asks the agent at an address how it is.
func (c *Cluster) AgentStatus(ctx context.Context, address string) (*agentv1.StatusResponse, error) {
	connection, err := c.DialAgent(address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return agentv1.NewStoreClient(connection).Status(ctx, &agentv1.StatusRequest{})
}

// DialAgent connects to an agent as the API server does.
func (c *Cluster) DialAgent(address string) (*grpc.ClientConn, error) {
	certFile, keyFile, err := c.agents.Issue(agentv1.ClientAPIServer, pki.Client)
	if err != nil {
		return nil, err
	}
	credentials, err := mtls.Files{CertFile: certFile, KeyFile: keyFile, CAFile: c.agents.CertFile}.Client()
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(address, grpc.WithTransportCredentials(credentials))
}

// answers is ready when the URL, which needs no rights, answers 200.
func answers(url string, caBundle []byte) func(context.Context) error {
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(caBundle)
	client := &http.Client{
		Timeout: answerTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12},
		},
	}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}
