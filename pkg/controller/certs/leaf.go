// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// BundleKey is where a Secret has the authorities to trust, beside the keys of its
	// type.
	BundleKey = "ca.crt"

	leafLifetime    = 90 * 24 * time.Hour
	leafRenewBefore = 30 * 24 * time.Hour
)

// leaf is a certificate that is to be in a Secret: keys tls.crt, tls.key and, of
// all authorities to trust, ca.crt.
type leaf struct {
	secret string
	// name is the CN, and the only DNS name.
	name  string
	usage x509.ExtKeyUsage
	// labels and owners are those of the Secret, beside the labels of all. Owners that
	// are nil are not known here.
	labels map[string]string
	owners []metav1.OwnerReference
}

// good tells whether a Secret holds the certificate: of the signer, and not soon
// to be renewed.
func (l leaf) good(secret *corev1.Secret, a *authority, now time.Time) bool {
	ok, err := rotator.ValidCert(a.signer.CertPEM, secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey],
		l.name, &[]x509.ExtKeyUsage{l.usage}, now.Add(leafRenewBefore))
	return ok && err == nil
}

// issue puts a new certificate into a Secret, and what is to be trusted.
func (l leaf) issue(secret *corev1.Secret, a *authority, now time.Time) error {
	template := &rotator.CertRotator{DNSName: l.name, ExtKeyUsages: &[]x509.ExtKeyUsage{l.usage}}
	cert, key, err := template.CreateCertPEM(a.signer, now.Add(-backdate), now.Add(leafLifetime))
	if err != nil {
		return fmt.Errorf("issue the certificate of Secret %s: %w", l.secret, err)
	}
	secret.Data = map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key, BundleKey: a.bundle()}
	return nil
}
