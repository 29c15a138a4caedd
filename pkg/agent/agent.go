// SPDX-License-Identifier: Apache-2.0

// Package agent serves the store on one token over gRPC. It owns the way to the
// token, the revisions, and what is kept of them in memory: index and history.
// It never keeps a value in the clear, never answers for a store that it has
// not verified, and never sends a PIN that was rejected once.
//
// A read goes through storeService, queue, worker and token.Store; a write the
// same way, and back through mvcc.Store to all watches.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

// DefaultHistory bounds the history unless Options say otherwise.
var DefaultHistory = mvcc.Limits{Events: 10_000, Bytes: 64 << 20, Age: 10 * time.Minute}

const (
	defaultCallTimeout = 2 * time.Minute
	// Nobody has anything to say to the health service but a name.
	maxHealthBytes = 1024
	// How long requests that were begun may take after the agent was told to stop.
	drainTimeout = 20 * time.Second
	// Who a client is, is proven when it connects. After maxConnectionAge it has to
	// do so again, for its next call: so a certificate that was rotated, or an
	// authority that was removed, is not good for ever. What runs may go on for
	// maxConnectionGrace, which is longer than watches of Kubernetes are.
	maxConnectionAge   = 2 * time.Hour
	maxConnectionGrace = 2 * time.Hour
)

// Options say which token an agent serves, and to whom.
type Options struct {
	Module     string          // Absolute path of the PKCS#11 library.
	Token      pkcs11.Selector // Must match one token.
	PINFile    string          // The user's PIN. White space around it is ignored.
	NewPINFile string          // If it exists, the PIN that the token is to get. Both files hold their PIN until Status says that it was changed.
	SOPINFile  string          // The security officer's PIN; only to initialise a blank token.
	StateDir   string          // Of this agent alone. It exists.
	Provision  bool            // A blank token may be made into a new store.
	StoreID    string          // The store to serve, in hex; empty: that of the state directory, if any.
	// StoreIDHint is the store, in hex, that the token may hold if the state directory
	// names none. Another one is refused all the same, and a blank token is one.
	StoreIDHint string
	Profile     token.Profile // What the token holds. Zero: by what it says of itself.
	TLS         mtls.Files

	History mvcc.Limits // Zero: DefaultHistory.
	// ScrubInterval is how often the whole store is read from the token itself,
	// past what the module remembers: a login and one read of each object. Zero:
	// 24 hours.
	ScrubInterval time.Duration
	CallTimeout   time.Duration      // After which a hanging token ends the process. Zero: 2 minutes.
	Clock         clock.PassiveClock // For revisions and the age of the history. nil: the system's.

	onHang func(work string) // Instead of ending the process.
}

// Agent serves one token. Make it with New, and run it once.
type Agent struct {
	reader     reader
	versions   *mvcc.Store
	supervisor *supervisor
	server     *grpc.Server
	health     *health.Server
	metrics    *metrics
	stopping   chan struct{}
}

// New loads the PKCS#11 module and prepares everything that does not need the
// token. Its errors are mistakes in the options; those of the token are told by
// the running agent.
func New(o Options) (*Agent, error) {
	module, err := pkcs11.Open(o.Module)
	if err != nil {
		return nil, err
	}
	a, err := newAgent(o, moduleReader{module})
	if err != nil {
		return nil, errors.Join(err, module.Close())
	}
	return a, nil
}

// moduleReader is the reader of a real module.
type moduleReader struct{ *pkcs11.Module }

func (m moduleReader) OpenSession(slotID uint) (session, error) { return m.Module.OpenSession(slotID) }

func newAgent(o Options, r reader) (*Agent, error) {
	if info, err := os.Stat(o.StateDir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("state directory %q does not exist: make it, for this agent alone", o.StateDir)
	}
	identity, err := newIdentity(o)
	if err != nil {
		return nil, err
	}
	state := newState(starting)
	pins, err := newPINs(o, state.setPIN)
	if err != nil {
		return nil, err
	}
	creds, err := o.TLS.Server()
	if err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.onHang == nil {
		o.onHang = exit
	}
	if o.History == (mvcc.Limits{}) {
		o.History = DefaultHistory
	}
	versions, err := mvcc.New(o.Clock, o.History)
	if err != nil {
		return nil, err
	}
	noteLock(versions.LockKeys())
	a := &Agent{
		reader:   r,
		versions: versions,
		health:   health.NewServer(),
		metrics:  newMetrics(r.Calls, func() *agentv1.StatusResponse { return statusOf(state, versions) }),
		stopping: make(chan struct{}),
	}
	a.supervisor = &supervisor{
		reader: r, selector: o.Token, pins: pins, identity: identity,
		state: state,
		worker: &worker{
			clock: o.Clock, versions: versions, queue: newQueue(starting.err()), measured: state.setUsage, reported: state.scrubbed,
			scrubInterval: cmp.Or(o.ScrubInterval, defaultScrubInterval),
			watchdog:      watchdog{limit: cmp.Or(o.CallTimeout, defaultCallTimeout), bite: o.onHang, observe: a.metrics.observe},
		},
		adoptions: make(chan *adoption),
		onChange:  a.setHealth,
	}
	identity.revision = a.supervisor.worker.revisionAbove
	a.setHealth(false)
	a.server = grpc.NewServer(append(authorized(),
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(agentv1.MaxMessageBytes),
		grpc.MaxSendMsgSize(agentv1.MaxMessageBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second,
			MaxConnectionAge: maxConnectionAge, MaxConnectionAgeGrace: maxConnectionGrace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)...)
	queue := a.supervisor.worker.queue
	agentv1.RegisterStoreServer(a.server, &storeService{state: state, versions: versions, queue: queue, stopping: a.stopping})
	agentv1.RegisterDeviceServer(a.server, &deviceService{state: state, queue: queue, adoptions: a.supervisor.adoptions, stopping: a.stopping})
	healthv1.RegisterHealthServer(a.server, a.health)
	reflection.Register(a.server)
	return a, nil
}

var starting = condition{agentv1.Reason_REASON_LOADING, "the agent is starting; ask again in a moment"}

// exit ends a process whose token hangs. It is restarted by whoever runs it.
func exit(work string) {
	klog.ErrorS(nil, "The token hangs: ending the process, so that a new one can reach it", "work", work)
	klog.FlushAndExit(klog.ExitFlushTimeout, 1)
}

// noteLock tells that the kernel does not let keys be kept out of swap. The agent
// serves all the same.
func noteLock(err error) {
	if err != nil {
		klog.InfoS("Keys may be written to swap: raise the limit of locked memory, or run without swap", "err", err)
	}
}

func (a *Agent) setHealth(ready bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if ready {
		status = healthv1.HealthCheckResponse_SERVING
	}
	a.health.SetServingStatus("", status)
	a.health.SetServingStatus(agentv1.LivenessService, healthv1.HealthCheckResponse_SERVING)
}

// ServeHealth tells everybody whether the store is served, and nothing else, until
// the context ends. Probes of kubelet have no certificate.
func (a *Agent) ServeHealth(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxHealthBytes))
	healthv1.RegisterHealthServer(server, a.health)
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(listener)
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
		hurry := time.AfterFunc(drainTimeout, a.server.Stop)
		a.server.GracefulStop()
		hurry.Stop()
		err = <-served
	}
	release()
	<-released
	return errors.Join(err, a.reader.Close())
}

// Compact forgets the history up to a revision, which remains the oldest that a
// list or a watch can begin from. A revision that has not happened is an error.
func (a *Agent) Compact(revision uint64) error { return requestError(a.versions.Compact(revision)) }

// Metrics serves what Prometheus asks for: how the token is, and how long it
// takes. It names no record.
func (a *Agent) Metrics() http.Handler { return a.metrics.handler() }

// Calls counts what the token was asked for since the agent was made.
func (a *Agent) Calls() pkcs11.Calls { return a.reader.Calls() }
