// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"k8s.io/component-base/tracing"

	"j5t.io/hsm/pkg/storage/hsm"
)

// agentsPath tells how the agents are. It looks as one of readyz's checks and
// is none of them: a server without a token is ready, for it still has
// discovery to serve, and the deletion of namespaces without HSMSecrets. The
// ClusterRole system:monitoring of Kubernetes may read it.
const agentsPath = "/readyz/agents"

// agentStates answers 200 while at least one agent serves its store, else 503;
// always with a line for each, in the form of readyz.
func agentStates(check func(context.Context) []hsm.AgentState) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var text strings.Builder
		code := http.StatusServiceUnavailable
		for _, agent := range check(r.Context()) {
			if agent.Err != nil {
				fmt.Fprintf(&text, "[-]%s: %v\n", agent.Address, agent.Err)
				continue
			}
			code = http.StatusOK
			fmt.Fprintf(&text, "[+]%s: serves the store on token %s\n", agent.Address, agent.Serial)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(code)
		_, _ = fmt.Fprint(w, text.String()) // The client may have gone.
	})
}

// traced makes the calls to agents spans of the request that they are made for.
func traced(provider trace.TracerProvider) grpc.DialOption {
	return grpc.WithStatsHandler(otelgrpc.NewClientHandler(
		otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(tracing.Propagators())))
}
