// SPDX-License-Identifier: Apache-2.0

// Package certs owns the certificates between the parts: that of the API server,
// which its APIService trusts, and those by which the API server, the controller
// and the agents know each other. It renews them and their authorities without
// restarts, or has cert-manager do so. It never writes a Secret that it did not make,
// and writes keys nowhere but into their Secrets.
package certs

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/controller/identity"
)

// The Secrets, in the system namespace. That of an agent has AgentSecret's name.
const (
	AgentsCASecret         = "hsm-agents-ca"
	APIServerClientSecret  = "hsm-apiserver-agent-client"
	ControllerClientSecret = identity.Name + "-agent-client"
	ServingCASecret        = "hsm-apiserver-ca"
	ServingSecret          = "hsm-apiserver-tls"
)

// AuthorityLabel is on all Secrets of this package, and names the authority that
// their certificate is of; on those that cert-manager makes, it is ByCertManager.
// A Secret without it is of others.
const AuthorityLabel = "hsm.j5t.io/certificate-authority"

const (
	partOfLabel, partOf = "app.kubernetes.io/part-of", "hsm"

	organization     = "hsm.j5t.io"
	apiServerService = "hsm-apiserver"

	fieldOwner = client.FieldOwner(identity.FieldManager)
)

// APIService is the name of the APIService whose caBundle Authorities sets, if it
// has InjectAnnotation, "true". Without it, somebody else makes that certificate.
const (
	APIService       = "v1alpha1.hsm.j5t.io"
	InjectAnnotation = "hsm.j5t.io/inject-ca"
)

var (
	secretKind     = corev1.SchemeGroupVersion.WithKind("Secret")
	apiServiceKind = schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"}
)

// Issuer makes and renews the certificates, or has somebody else do it.
type Issuer interface {
	// Kind is that of the objects, named as the Secrets, that stand for certificates:
	// whoever removes an agent removes that of its certificate, then the Secret.
	Kind() schema.GroupVersionKind
	// Agent ensures that the agent of this name has a server certificate for the name of its
	// Service. The owners are those of the object.
	Agent(ctx context.Context, agent string, owners []metav1.OwnerReference) error
	// Renew makes and renews all certificates that are due.
	Renew(ctx context.Context) error
}

// AgentSecret is the name of the Secret with the certificate of an agent.
func AgentSecret(agent string) string { return agent + "-tls" }

// authorityID names an authority and the Secret that it lies in. cert-manager's Issuer has
// the name.
type authorityID struct{ secret, name string }

var (
	agents  = authorityID{AgentsCASecret, "hsm-agents"}
	serving = authorityID{ServingCASecret, "hsm-apiserver-serving"}
)
