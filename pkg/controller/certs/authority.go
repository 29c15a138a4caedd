// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
)

const (
	// caLifetime and caRenewBefore leave a certificate no chance to outlive the
	// authority that signed it.
	caLifetime    = 3 * 365 * 24 * time.Hour
	caRenewBefore = 180 * 24 * time.Hour
	// overlap is how long an authority is trusted before it signs, and after it has
	// signed last: kubelets bring a changed Secret to their pods within minutes, on nodes
	// that were cut off when they are back.
	overlap = 24 * time.Hour
	// backdate is how far clocks may be apart.
	backdate = time.Hour
)

// The keys of an authority's Secret, beside those of its Secret type.
const (
	nextCertKey     = "next.crt"
	nextKeyKey      = "next.key"
	previousCertKey = "previous.crt"
)

// authority is a certificate authority on its way from one key to the next:
//
//	        soon expires              overlap is over          overlap is over
//	steady ─────────────► announced ─────────────────► retiring ─────────────► steady
//	{signer}              {signer, next}               {previous, signer}
//
// All of its certificates are trusted at any time, the signer signs. A step is
// made only when everything was written that the step before asked for.
type authority struct {
	signer   *rotator.KeyPairArtifacts
	next     *rotator.KeyPairArtifacts // nil: none.
	previous []byte                    // PEM; empty: none.
	since    time.Time                 // Of the last step.
}

// bundle is PEM of all that is trusted.
func (a *authority) bundle() []byte {
	parts := [][]byte{a.previous, a.signer.CertPEM}
	if a.next != nil {
		parts = append(parts, a.next.CertPEM)
	}
	return bytes.Join(parts, nil)
}

// step takes the next step of the authority, if it is due, and says what was done; empty is
// nothing. spread is when all that trusts the authority was last written.
func (a *authority) step(name string, spread, now time.Time) (string, error) {
	due := !now.Before(a.since.Add(overlap)) && !now.Before(spread.Add(overlap)) ||
		now.Add(leafRenewBefore).After(a.signer.Cert.NotAfter) // The controller was off for too long.
	switch {
	case a.next != nil && due:
		a.previous, a.signer, a.next = a.signer.CertPEM, a.next, nil
		a.since = now
		return "the next authority signs from now on", nil
	case a.next == nil && len(a.previous) > 0 && due:
		a.previous = nil
		a.since = now
		return "the previous authority is no longer trusted", nil
	case a.next == nil && len(a.previous) == 0 && now.After(a.signer.Cert.NotAfter.Add(-caRenewBefore)):
		next, err := newCA(name, now)
		if err != nil {
			return "", err
		}
		a.next = next
		a.since = now
		return "the next authority is trusted from now on", nil
	}
	return "", nil
}

func newCA(name string, now time.Time) (*rotator.KeyPairArtifacts, error) {
	ca, err := (&rotator.CertRotator{CAName: name, CAOrganization: organization}).CreateCACert(now.Add(-backdate), now.Add(caLifetime))
	if err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	return ca, nil
}

// store puts the authority into its Secret.
func (a *authority) store(secret *corev1.Secret) {
	secret.Data = map[string][]byte{
		corev1.TLSCertKey:       a.signer.CertPEM,
		corev1.TLSPrivateKeyKey: a.signer.KeyPEM,
	}
	if a.next != nil {
		secret.Data[nextCertKey], secret.Data[nextKeyKey] = a.next.CertPEM, a.next.KeyPEM
	}
	if len(a.previous) > 0 {
		secret.Data[previousCertKey] = a.previous
	}
	if secret.Annotations == nil {
		secret.Annotations = map[string]string{}
	}
	secret.Annotations[sinceAnnotation] = a.since.UTC().Format(time.RFC3339)
}

// parse reads an authority from its Secret. Its errors hold nothing of a key.
func parse(secret *corev1.Secret) (*authority, error) {
	a := &authority{previous: secret.Data[previousCertKey]}
	var err error
	if a.signer, err = parsePair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return nil, err
	}
	if len(secret.Data[nextCertKey]) > 0 {
		if a.next, err = parsePair(secret.Data[nextCertKey], secret.Data[nextKeyKey]); err != nil {
			return nil, err
		}
	}
	// An authority that cert-manager has made, and a person has handed over, has taken no step.
	if since, is := secret.Annotations[sinceAnnotation]; is {
		if a.since, err = time.Parse(time.RFC3339, since); err != nil {
			return nil, fmt.Errorf("annotation %s: %w", sinceAnnotation, err)
		}
	}
	return a, nil
}

func parsePair(certPEM, keyPEM []byte) (*rotator.KeyPairArtifacts, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key is not an RSA key")
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	return &rotator.KeyPairArtifacts{Cert: cert, Key: key, CertPEM: certPEM, KeyPEM: keyPEM}, nil
}
