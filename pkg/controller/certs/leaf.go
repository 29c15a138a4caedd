// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
)

const (
	// BundleKey is where a Secret has the authorities to trust, beside the keys of its
	// type.
	BundleKey = "ca.crt"

	leafLifetime    = 90 * 24 * time.Hour
	leafRenewBefore = 30 * 24 * time.Hour
)

// leaf is a certificate in a Secret: the keys tls.crt and tls.key, and ca.crt with all
// authorities to trust.
type leaf struct {
	secret string
	of     authorityID
	// name is the only DNS name, and the CN.
	name  string
	usage x509.ExtKeyUsage
	// agent is the name of the agent that it belongs to, if any.
	agent string
	// owners are those of the object that stands for the certificate; nil: not known here.
	owners []metav1.OwnerReference
}

func leafOfAgent(agent, namespace string) leaf {
	return leaf{
		secret: AgentSecret(agent), of: agents, agent: agent,
		name: serverName(agent, namespace), usage: x509.ExtKeyUsageServerAuth,
	}
}

func leafsOfClients() []leaf {
	return []leaf{
		{secret: APIServerClientSecret, of: agents, name: agentv1.ClientAPIServer, usage: x509.ExtKeyUsageClientAuth},
		{secret: ControllerClientSecret, of: agents, name: agentv1.ClientController, usage: x509.ExtKeyUsageClientAuth},
	}
}

func leafOfAPIServer(namespace string) leaf {
	return leaf{secret: ServingSecret, of: serving, name: serverName(apiServerService, namespace), usage: x509.ExtKeyUsageServerAuth}
}

func serverName(service, namespace string) string { return service + "." + namespace + ".svc" }

// labels are those of the Secret, and of the Certificate that stands for it.
func (l leaf) labels(authority string) map[string]string {
	labels := map[string]string{AuthorityLabel: authority, partOfLabel: partOf}
	if l.agent != "" {
		labels[agentname.ObjectLabel] = l.agent
	}
	return labels
}

// good reports whether a Secret holds the certificate, signed by the signer and not due for
// renewal.
func (l leaf) good(secret *corev1.Secret, a *authority, now time.Time) bool {
	ok, err := rotator.ValidCert(a.signer.CertPEM, secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey],
		l.name, &[]x509.ExtKeyUsage{l.usage}, now.Add(leafRenewBefore))
	return ok && err == nil
}

// issue puts a new certificate and the authorities to trust into a Secret.
func (l leaf) issue(secret *corev1.Secret, a *authority, now time.Time) error {
	template := &rotator.CertRotator{DNSName: l.name, ExtKeyUsages: &[]x509.ExtKeyUsage{l.usage}}
	cert, key, err := template.CreateCertPEM(a.signer, now.Add(-backdate), now.Add(leafLifetime))
	if err != nil {
		return fmt.Errorf("issue the certificate of Secret %s: %w", l.secret, err)
	}
	secret.Data = map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key, BundleKey: a.bundle()}
	return nil
}
