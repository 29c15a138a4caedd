// SPDX-License-Identifier: Apache-2.0

// Package mtls owns the transport security between the API server and the
// agents: TLS 1.3, both sides verified against one authority, from files. It
// never falls back to anything weaker, and never writes.
package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
)

// Files names the PEM files of one side. They are read at every handshake, so the
// next connection uses a rotated certificate or authority without a restart. While a
// rotation has replaced only some of the files, handshakes fail, and clients try
// again.
type Files struct {
	CertFile string // The certificate of this side, with its intermediates.
	KeyFile  string // Its private key.
	CAFile   string // The authorities that sign the certificates of the other side.
}

// Server returns the credentials of a gRPC server. A client must present a
// certificate of the authority that is good for client authentication
// (RFC 5280, section 4.2.1.12): the certificate of another server is refused.
func (f Files) Server() (credentials.TransportCredentials, error) {
	if _, _, err := f.load(); err != nil {
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cert, authorities, err := f.load()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{cert},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    authorities,
				// A resumed session would outlive the authority that it was verified by.
				SessionTicketsDisabled: true,
			}, nil
		},
	}), nil
}

// Client returns the credentials of a gRPC client. The server's certificate must
// be of the authority, good for server authentication, and of the host name or
// address that was dialled.
func (f Files) Client() (credentials.TransportCredentials, error) {
	if _, _, err := f.load(); err != nil {
		return nil, err
	}
	return &client{TransportCredentials: credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13}), files: f}, nil
}

// client reads the files for each handshake: crypto/tls has no callback for the root
// certificates of a client.
type client struct {
	credentials.TransportCredentials
	files Files
}

func (c *client) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cert, authorities, err := c.files.load()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		RootCAs:      authorities,
	}).ClientHandshake(ctx, authority, conn)
}

func (c *client) Clone() credentials.TransportCredentials {
	return &client{TransportCredentials: c.TransportCredentials.Clone(), files: c.files}
}

// load reads the files. It never puts their content into an error.
func (f Files) load() (tls.Certificate, *x509.CertPool, error) {
	cert, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("load certificate %q with key %q: %w", f.CertFile, f.KeyFile, err)
	}
	bundle, err := os.ReadFile(f.CAFile)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("load authorities: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(bundle) {
		return tls.Certificate{}, nil, fmt.Errorf("load authorities: %q holds no PEM certificate", f.CAFile)
	}
	return cert, authorities, nil
}
