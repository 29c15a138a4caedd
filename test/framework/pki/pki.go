// SPDX-License-Identifier: Apache-2.0

// Package pki makes a certificate authority in a folder, and issues certificates from it.
// It owns the files that tests and the demo pass to real binaries by flag.
// It never serves production: its keys lie on disk and its certificates live a month.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	lifetime = 30 * 24 * time.Hour
	// Clocks of the processes of one machine agree; those of a virtual machine's guest may not.
	backdate = time.Hour
)

// Usage says which side of a TLS connection a certificate is good for, and nothing else.
type Usage string

// The two sides of a TLS connection.
const (
	Server Usage = "server"
	Client Usage = "client"
)

// CA is an ECDSA P-256 certificate authority whose files lie in one folder.
type CA struct {
	// CertFile is the PEM file of the CA's certificate.
	CertFile string
	// KeyFile is the PEM file of the CA's private key (PKCS#8, mode 0600).
	KeyFile string
	// Bundle is the content of CertFile, as APIService.spec.caBundle wants it.
	Bundle []byte

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a new authority and writes ca.crt and ca.key to dir, which it creates if need be.
// An authority that lies there already is replaced.
func NewCA(dir string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for certificates: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key of CA: %w", err)
	}
	template, err := newTemplate(pkix.Name{CommonName: "test CA " + filepath.Base(dir)})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate of CA: %w", err)
	}
	ca := &CA{dir: dir, cert: cert, key: key, Bundle: encodeCert(der)}
	ca.CertFile, ca.KeyFile, err = ca.write("ca", der, key)
	return ca, err
}

// Issue issues a certificate for the subject name and writes it and its key to the CA's folder.
// Names and addresses are given in sans; a server's certificate is good for localhost, 127.0.0.1 and ::1 as well.
// To issue the same name and usage again replaces both files, as a rotation in production does.
func (ca *CA) Issue(name string, usage Usage, sans ...string) (certFile, keyFile string, err error) {
	if usage == Server {
		sans = append([]string{"localhost", "127.0.0.1", "::1"}, sans...)
	}
	return ca.issue(pkix.Name{CommonName: name}, usage, sans)
}

// IssueUser issues a client certificate that Kubernetes reads as this user in these groups.
func (ca *CA) IssueUser(name string, groups ...string) (certFile, keyFile string, err error) {
	return ca.issue(pkix.Name{CommonName: name, Organization: groups}, Client, nil)
}

func (ca *CA) issue(subject pkix.Name, usage Usage, sans []string) (certFile, keyFile string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("generate key of %s: %w", subject.CommonName, err)
	}
	template, err := newTemplate(subject)
	if err != nil {
		return "", "", err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if usage == Server {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, san := range sans {
		if ip := net.ParseIP(san); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, san)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return "", "", fmt.Errorf("sign certificate of %s: %w", subject.CommonName, err)
	}
	// User names of Kubernetes contain colons, and may contain slashes.
	file := strings.NewReplacer(":", "-", "/", "-").Replace(subject.CommonName) + "-" + string(usage)
	return ca.write(file, der, key)
}

func (ca *CA) write(name string, der []byte, key *ecdsa.PrivateKey) (certFile, keyFile string, err error) {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", fmt.Errorf("encode key of %s: %w", name, err)
	}
	certFile = filepath.Join(ca.dir, name+".crt")
	keyFile = filepath.Join(ca.dir, name+".key")
	if err := replaceFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})); err != nil {
		return "", "", err
	}
	if err := replaceFile(certFile, encodeCert(der)); err != nil {
		return "", "", err
	}
	return certFile, keyFile, nil
}

// replaceFile never shows a reader half a file. Between the two files of a pair a reader may see
// the new key with the old certificate, as with any rotation on disk; it has to try again.
func replaceFile(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func newTemplate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(lifetime),
	}, nil
}
