// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/x509"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/agentname"
)

// ByCertManager is the AuthorityLabel of what cert-manager makes.
const ByCertManager = "cert-manager"

// CertificateKind is what cert-manager makes a Secret of.
var CertificateKind = schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"}

// CertManager is the Issuer that asks cert-manager, by Certificates of the same
// names as their Secrets, for all but the authorities: those are of the Issuers
// hsm-agents and hsm-apiserver-serving of the system namespace, which a person makes.
// It sees no key.
type CertManager struct {
	client    client.Client
	namespace string
}

// NewCertManager returns the issuer of the system namespace.
func NewCertManager(c client.Client, namespace string) *CertManager {
	return &CertManager{client: c, namespace: namespace}
}

// Kind is Certificate.
func (m *CertManager) Kind() schema.GroupVersionKind { return CertificateKind }

// Agent writes the Certificate of an agent.
func (m *CertManager) Agent(ctx context.Context, agent string, owners []metav1.OwnerReference) error {
	l := leafOfAgent(agent, m.namespace)
	l.owners = owners
	return m.ask(ctx, l)
}

// Renew applies all Certificates. cert-manager renews their Secrets.
func (m *CertManager) Renew(ctx context.Context) error {
	leafs := append(leafsOfClients(), leafOfAPIServer(m.namespace))
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(CertificateKind)
	if err := m.client.List(ctx, list, client.InNamespace(m.namespace), client.MatchingLabels{AuthorityLabel: ByCertManager}, client.HasLabels{agentname.ObjectLabel}); err != nil {
		return fmt.Errorf("list the Certificates of agents: %w", err)
	}
	for _, certificate := range list.Items {
		l := leafOfAgent(certificate.Labels[agentname.ObjectLabel], m.namespace)
		l.owners = certificate.OwnerReferences
		if l.secret == certificate.Name && certificate.DeletionTimestamp == nil {
			leafs = append(leafs, l)
		}
	}
	for _, l := range leafs {
		if err := m.ask(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// ask applies the Certificate of a leaf. That writes nothing if it is there already.
func (m *CertManager) ask(ctx context.Context, l leaf) error {
	secret := metadataOf(secretKind)
	err := m.client.Get(ctx, types.NamespacedName{Namespace: m.namespace, Name: l.secret}, secret)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read Secret %s: %w", l.secret, err)
	}
	// cert-manager would overwrite any Secret.
	if by := secret.Labels[AuthorityLabel]; err == nil && by != ByCertManager && by != l.of.name {
		klog.FromContext(ctx).V(1).Info("Secret is of others and left alone", "secret", l.secret)
		return nil
	}
	certificate := m.certificate(l)
	if err := m.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(certificate), fieldOwner, client.ForceOwnership); err != nil {
		return fmt.Errorf("apply Certificate %s: %w", l.secret, err)
	}
	return nil
}

func (m *CertManager) certificate(l leaf) *unstructured.Unstructured {
	usage := "server auth"
	spec := map[string]any{
		"secretName":           l.secret,
		"issuerRef":            map[string]any{"group": CertificateKind.Group, "kind": "Issuer", "name": l.of.name},
		"dnsNames":             []any{l.name},
		"duration":             leafLifetime.String(),
		"renewBefore":          leafRenewBefore.String(),
		"revisionHistoryLimit": int64(1),
		// Not the algorithm of Authorities: cert-manager keeps a certificate that it finds as
		// long as it matches, and its injector would not trust that one.
		"privateKey": map[string]any{"algorithm": "ECDSA", "size": int64(256), "rotationPolicy": "Always"},
	}
	if l.usage == x509.ExtKeyUsageClientAuth {
		// Agents know their clients by it. Names of Services may be too long for a CN.
		usage, spec["commonName"] = "client auth", l.name
	}
	spec["usages"] = []any{"digital signature", usage}
	certificate := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	certificate.SetGroupVersionKind(CertificateKind)
	certificate.SetNamespace(m.namespace)
	certificate.SetName(l.secret)
	certificate.SetLabels(l.labels(ByCertManager))
	certificate.SetOwnerReferences(l.owners)
	labels := map[string]any{}
	for key, value := range l.labels(ByCertManager) {
		labels[key] = value
	}
	spec["secretTemplate"] = map[string]any{"labels": labels}
	return certificate
}
