// SPDX-License-Identifier: Apache-2.0

// Package agent serves the store on one token over gRPC. It owns the way to the
// token, the revisions, and what callers are told when something fails. It never
// keeps a value in the clear, never answers for a store that it has not verified,
// and never sends a PIN that was rejected once.
//
// A read goes down through storeService, queue, worker, connection and
// token.Store. A write goes the same way, and then into mvcc.Store, from which
// lists and watches read. The supervisor runs the worker while the token is served.
package agent

import (
	"errors"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/pkcs11"
)

// Agent serves one token. Make it with New, and run it once.
type Agent struct {
	module     module
	versions   *mvcc.Store
	supervisor *supervisor
	server     *grpc.Server
	health     *healthReporter
	metrics    *metrics
	stopping   chan struct{}
}

// New loads the PKCS#11 module and prepares everything that does not need the
// token. Its errors are mistakes in the options; those of the token are told by
// the running agent.
func New(o Options) (*Agent, error) {
	loaded, err := pkcs11.Open(o.Module)
	if err != nil {
		return nil, err
	}
	a, err := newAgent(o, pkcs11Module{loaded})
	if err != nil {
		return nil, errors.Join(err, loaded.Close())
	}
	return a, nil
}

// newAgent wires an agent: from the token up to the services.
func newAgent(o Options, m module) (*Agent, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	versions, err := mvcc.New(o.Clock, o.History)
	if err != nil {
		return nil, err
	}
	warnSwap(versions.LockKeys())
	revisions := &revisions{clock: o.Clock}
	identity, err := newIdentity(o, revisions)
	if err != nil {
		return nil, err
	}
	state := newState(starting)
	pins, err := newPINs(o, m, state)
	if err != nil {
		return nil, err
	}
	creds, err := o.TLS.Server()
	if err != nil {
		return nil, err
	}
	metrics := newMetrics(m, state, versions)
	queue := newQueue(starting.err())
	stopping := make(chan struct{})
	adoptions := make(chan *adoption)
	health := newHealthReporter()
	connection := &connection{module: m, selector: o.Token, pins: pins, identity: identity, state: state}
	watchdog := watchdog{limit: o.CallTimeout, onTimeout: o.onHang, metrics: metrics}
	worker := &worker{
		connection: connection, versions: versions, revisions: revisions, queue: queue, state: state, watchdog: watchdog,
		housekeeping: newHousekeeping(o.Clock, o.ScrubInterval, state, metrics),
	}
	supervisor := &supervisor{
		connection: connection, worker: worker, queue: queue, state: state, watchdog: watchdog, health: health, adoptions: adoptions,
	}
	server := grpc.NewServer(append(authorized(), serverOptions(creds)...)...)
	agentv1.RegisterStoreServer(server, &storeService{state: state, versions: versions, queue: queue, stopping: stopping})
	agentv1.RegisterDeviceServer(server, &deviceService{state: state, queue: queue, adoptions: adoptions, stopping: stopping})
	healthv1.RegisterHealthServer(server, health.Server)
	reflection.Register(server)
	return &Agent{
		module: m, versions: versions, supervisor: supervisor, server: server, health: health, metrics: metrics, stopping: stopping,
	}, nil
}
