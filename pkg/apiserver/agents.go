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
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/tracing"

	"j5t.io/hsm/pkg/storage/hsm"
)

// agentsPath reports the state of the agents. It looks like a check of readyz but is
// not one: a server without a token is ready, because it still serves discovery, and
// the deletion of namespaces without HSMSecrets. The ClusterRole system:monitoring of
// Kubernetes may read it.
const agentsPath = "/readyz/agents"

// newAgents makes the client of the agents, with its metrics.
func (c *completedConfig) newAgents() (*hsm.Client, error) {
	binding := hsm.StoreBinding{ConfigMaps: c.extra.Host.CoreV1(), Namespace: c.extra.SystemNamespace}
	agents, err := hsm.NewClient(binding, c.extra.AgentTLS, traced(c.generic.TracerProvider))
	if err != nil {
		return nil, fmt.Errorf("set up the connection to the agents: %w", err)
	}
	if err := legacyregistry.CustomRegister(agents.Collector()); err != nil {
		return nil, fmt.Errorf("register metrics of the agents: %w", err)
	}
	return agents, nil
}

// followAgents keeps the client informed of where the agents are, and to which store
// the cluster is bound.
func (c *completedConfig) followAgents(server *genericapiserver.GenericAPIServer, agents *hsm.Client) error {
	namespace := c.extra.SystemNamespace
	if err := server.AddPostStartHook("agents-store", followStoreBinding(agents, c.extra.Host, namespace)); err != nil {
		return err
	}
	if len(c.extra.AgentAddresses) == 0 {
		return server.AddPostStartHook("agents-of-pools", followPools(agents, namespace))
	}
	var static []hsm.Agent
	for _, address := range c.extra.AgentAddresses {
		static = append(static, hsm.Agent{Address: address})
	}
	agents.SetAgents(static)
	return nil
}

// traced makes each call to an agent a span of the request that caused it.
func traced(provider trace.TracerProvider) grpc.DialOption {
	return grpc.WithStatsHandler(otelgrpc.NewClientHandler(
		otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(tracing.Propagators())))
}

// states asks how the agents are.
type states func(context.Context) ([]hsm.AgentState, error)

// agentStates answers 200 while at least one agent serves the store, else 503, with a
// line for each agent in the format of readyz.
func agentStates(check states) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, serves := lines(check(r.Context()))
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !serves {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprint(w, text) // The client may have gone.
	})
}

func lines(agents []hsm.AgentState, err error) (text string, serves bool) {
	if err != nil {
		return fmt.Sprintf("[-]agents: %v\n", err), false
	}
	var b strings.Builder
	for _, agent := range agents {
		name := agent.Address
		if agent.Serial != "" {
			name += " of token " + agent.Serial
		}
		if agent.Err != nil {
			fmt.Fprintf(&b, "[-]agent %s: %v\n", name, agent.Err)
			continue
		}
		serves = true
		fmt.Fprintf(&b, "[+]agent %s: serves the store\n", name)
	}
	return b.String(), serves
}

// withAgentStates adds the state of the agents to the verbose output of readyz. It
// does not change the result. A user who may not read agentsPath sees only whether
// there is a connection, and causes no call to an agent: everybody may read readyz.
func withAgentStates(next http.Handler, agents *hsm.Client, rights authorizer.Authorizer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		if _, verbose := r.URL.Query()["verbose"]; !verbose || r.URL.Path != "/readyz" {
			return
		}
		text := "[-]agents: not connected to one that serves, as of the last request\n"
		if agents.Connected() {
			text = "[+]agents: connected to one that serves\n"
		}
		if mayReadStates(r, rights) {
			text, _ = lines(agents.Check(r.Context()))
		}
		_, _ = fmt.Fprint(w, text) // The client may have gone.
	})
}

func mayReadStates(r *http.Request, rights authorizer.Authorizer) bool {
	user, ok := request.UserFrom(r.Context())
	if !ok {
		return false
	}
	decision, _, err := rights.Authorize(r.Context(), authorizer.AttributesRecord{User: user, Verb: "get", Path: agentsPath})
	return err == nil && decision == authorizer.DecisionAllow
}
