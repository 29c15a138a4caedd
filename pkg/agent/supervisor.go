// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

const (
	// How long is waited after an attempt that did not find the token; each time twice as
	// long, up to a limit. So a token that comes back is opened at once.
	firstRetry, lastAbsentRetry = 20 * time.Millisecond, 250 * time.Millisecond
	// The limit for attempts that failed although the token was there, as a login that
	// failed: most logins write to its flash. Something that changes ends the wait.
	lastFailedRetry = time.Minute
	// How often is looked whether something has changed.
	changePollInterval = 400 * time.Millisecond
	// How often a token that cannot be served is tried again though nothing has changed.
	unchangedRetry = 10 * time.Minute
	// How long callers are told nothing when a session is lost, and wait for the next one.
	// An attempt that has begun by then may last longer: reading the store takes its time.
	reconnectWait = 500 * time.Millisecond
)

var (
	starting = condition{agentv1.Reason_REASON_LOADING, "the agent is starting; ask again in a moment"}
	loading  = condition{agentv1.Reason_REASON_LOADING, "the agent is reading the token's store; ask again in a moment"}
	stopping = condition{agentv1.Reason_REASON_LOADING, "the agent is stopping; ask again when it has been restarted"}
	served   = condition{}
)

// supervisor leads the token to where it can be served, and back there when it
// is lost. It and the worker run on the one goroutine that owns the token.
//
//	               no such token: again soon
//	           ┌───────────────────────────────────────────────────┐
//	           ▼                                                   │
//	start ─► absent ──found──► logging in ──► loading ──whole──► ready ──lost──► reconnecting
//	           ▲                 │  │            │                 ▲                  │
//	           │                 │  │            ├─► blank    ┐    └──── at once ─────┤
//	           │                 │  │            ├─► foreign  │ again when another    │
//	           │                 │  │            └─► corrupt  ┘ token is there, or    │
//	           │                 │  │                           rarely; foreign:      │
//	           │                 │  │                           adopted               │
//	           │                 │  └─► PIN rejected ─ again when the PIN file changes│
//	           │                 └────► PIN locked ─── the same, or its flags change  │
//	           └──────────── again ──────────────┴────────────────── in vain ─────────┘
//
// While it reconnects, nobody is told anything: requests wait, and those under which the
// session was lost are done again. run makes every transition of the picture; which
// error leads where says the table of errors.
type supervisor struct {
	connection *connection
	worker     *worker
	queue      *queue
	state      *state
	health     *healthReporter
	watchdog   watchdog
	// adoptions are requests to adopt the store on a token that is refused for it.
	adoptions <-chan *adoption
	adopting  *adoption // What the next attempt is to make.
	lost      time.Time // When the session was lost last.
}

// run returns when the context ends, after the request in hand.
func (s *supervisor) run(ctx context.Context) {
	absent := backoff{first: firstRetry, limit: lastAbsentRetry}
	failed := backoff{first: firstRetry, limit: lastFailedRetry}
	for ctx.Err() == nil {
		err := s.connect()
		s.finishAdoption(err)
		if err == nil {
			absent.reset()
			failed.reset()
			s.enter(served)
			s.serve(ctx)
			continue
		}
		there := s.attend()
		c := conditionOf(err)
		if !c.transient() || !s.reconnecting() {
			s.enter(c)
			s.worker.abandonPending()
		}
		switch {
		case !c.transient():
			s.waitForChange(ctx, unchangedRetry)
		case there:
			s.waitForChange(ctx, failed.next())
		default:
			absent.pause(ctx)
		}
	}
	s.enter(stopping)
	s.worker.abandonPending()
}

// serve returns when the context ends, or the session is lost.
func (s *supervisor) serve(ctx context.Context) {
	err := s.worker.serve(ctx)
	s.connection.close()
	if err != nil {
		s.lost = time.Now()
		klog.InfoS("The session with the token is lost; connecting again", "serial", s.connection.found.Serial, "err", err)
	}
}

// reconnecting reports whether callers wait, because the token was served until a moment ago.
func (s *supervisor) reconnecting() bool {
	c, _ := s.state.now()
	return c.ready() && time.Since(s.lost) < reconnectWait
}

// connect makes one attempt to reach the token and to open its store.
func (s *supervisor) connect() error {
	served, _ := s.state.now()
	err := s.watchdog.guard("opening the store", func() error {
		if err := s.connection.reach(); err != nil {
			return err
		}
		if !served.ready() { // Else callers wait, and are told nothing yet.
			s.enter(loading)
		}
		if err := s.connection.openStore(); err != nil {
			return err
		}
		return s.worker.load()
	})
	if err != nil {
		s.connection.close()
	}
	return err
}

// enter makes a condition known. Only a ready one lets requests in.
func (s *supervisor) enter(c condition) {
	if !s.state.enter(c) {
		return
	}
	if c.ready() {
		s.queue.open()
		klog.InfoS("Token is served", "serial", s.connection.found.Serial)
	} else {
		s.queue.close(c.err())
		klog.InfoS("Token is not served", "reason", c.reason, "message", c.message)
	}
	s.health.setServed(c.ready())
}

// attend reports whether the token is there that the last attempt has failed with.
func (s *supervisor) attend() (there bool) {
	_ = s.watchdog.guard("looking for the token", func() error {
		there = s.connection.attend()
		return nil
	})
	return there
}

// waitForChange waits until something has changed that another attempt may
// depend on, or for so long.
func (s *supervisor) waitForChange(ctx context.Context, limit time.Duration) {
	poll := time.NewTicker(changePollInterval)
	defer poll.Stop()
	unchanged := time.NewTimer(limit)
	defer unchanged.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-unchanged.C:
			return
		case a := <-s.adoptions:
			if s.beginAdoption(a) {
				return
			}
		case <-poll.C:
			if s.changed() {
				return
			}
		}
	}
}

func (s *supervisor) changed() (changed bool) {
	_ = s.watchdog.guard("looking for the token", func() error {
		changed = s.connection.changed()
		return nil
	})
	return changed
}
