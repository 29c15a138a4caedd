// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// Nobody has anything to say to the health service but a name.
const maxHealthBytes = 1024

// healthReporter is the health service: of the process, and of the store on the token.
type healthReporter struct{ *health.Server }

func newHealthReporter() *healthReporter {
	h := &healthReporter{health.NewServer()}
	h.SetServingStatus(agentv1.LivenessService, healthv1.HealthCheckResponse_SERVING)
	h.setServed(false)
	return h
}

func (h *healthReporter) setServed(served bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if served {
		status = healthv1.HealthCheckResponse_SERVING
	}
	h.SetServingStatus("", status)
}

// ServeHealth tells everybody whether the store is served, and nothing else, until
// the context ends. Probes of kubelet have no certificate.
func (a *Agent) ServeHealth(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxHealthBytes))
	healthv1.RegisterHealthServer(server, a.health.Server)
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(listener)
}
