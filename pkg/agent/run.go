// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
)

const (
	// How long requests that were begun may take after the agent was told to stop.
	drainTimeout = 20 * time.Second
	// Who a client is, is proven when it connects. After maxConnectionAge it has to
	// do so again, for its next call: so a certificate that was rotated, or an
	// authority that was removed, is not good for ever. What runs may go on for
	// maxConnectionGrace, which is longer than watches of Kubernetes are.
	maxConnectionAge   = 2 * time.Hour
	maxConnectionGrace = 2 * time.Hour
)

func serverOptions(creds credentials.TransportCredentials) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(agentv1.MaxMessageBytes),
		grpc.MaxSendMsgSize(agentv1.MaxMessageBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second,
			MaxConnectionAge: maxConnectionAge, MaxConnectionAgeGrace: maxConnectionGrace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Run serves until the context ends: then streams are ended, requests that were
// begun are finished, and the token is left logged out.
func (a *Agent) Run(ctx context.Context, listener net.Listener) error {
	owning, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	released := make(chan struct{})
	go func() {
		defer close(released)
		a.supervisor.run(owning)
	}()
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(listener) }()

	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		close(a.stopping)
		a.health.Shutdown()
		forced := time.AfterFunc(drainTimeout, a.server.Stop)
		a.server.GracefulStop()
		forced.Stop()
		err = <-served
	}
	release()
	<-released
	return errors.Join(err, a.module.Close())
}

// Compact forgets the history up to a revision, which remains the oldest that a
// list or a watch can begin from. A revision that has not happened is an error.
func (a *Agent) Compact(revision uint64) error { return requestError(a.versions.Compact(revision)) }

// Metrics serves what Prometheus asks for: how the token is, and how long it
// takes. It names no record.
func (a *Agent) Metrics() http.Handler { return a.metrics.handler() }

// Calls counts what the token was asked for since the agent was made.
func (a *Agent) Calls() pkcs11.Calls { return a.module.Calls() }

// exit ends a process whose token hangs. It is restarted by whoever runs it.
func exit(work string) {
	klog.ErrorS(nil, "The token hangs: ending the process, so that a new one can reach it", "work", work)
	klog.FlushAndExit(klog.ExitFlushTimeout, 1)
}

// warnSwap logs that the kernel does not let keys be kept out of swap. The agent
// serves all the same.
func warnSwap(err error) {
	if err != nil {
		klog.InfoS("Keys may be written to swap: raise the limit of locked memory, or run without swap", "err", err)
	}
}
