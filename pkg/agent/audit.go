// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// audit logs which values were read or written, for which request of whom, and
// by which client. It never logs a value. The audit id and the user are what
// the client says; the client itself is what its certificate says.
func audit(ctx context.Context, act string, keysAndValues ...any) {
	header, _ := metadata.FromIncomingContext(ctx)
	first := func(key string) string {
		if values := header.Get(key); len(values) > 0 {
			return values[0]
		}
		return ""
	}
	klog.FromContext(ctx).WithName("audit").Info(act, append(keysAndValues,
		"auditID", first(agentv1.MetadataAuditID), "user", first(agentv1.MetadataUser), "client", client(ctx))...)
}

// client is the name in the certificate that the caller has shown.
func client(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(tls.State.PeerCertificates) > 0 {
			return tls.State.PeerCertificates[0].Subject.CommonName
		}
	}
	return ""
}
