// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

const (
	// How long is waited after a failed attempt; each time twice as long, up to
	// a limit. A token that comes back is served again well within a second.
	// Attempts that come to a login become rare: most logins write to its flash.
	firstRetry, lastRetry, lastLoginRetry = 20 * time.Millisecond, 400 * time.Millisecond, time.Minute
	// How often is looked whether a person has changed something.
	changePollInterval = time.Second
	// How often a token that cannot be served is tried again though nothing
	// has changed.
	unchangedRetry = 10 * time.Minute
	// How long callers wait to learn whether their change was made.
	outcomeWait = 500 * time.Millisecond
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
//	               no such token, or it does not answer: again soon
//	           ┌───────────────────────────────────────────────────┐
//	           ▼                                                   │
//	start ─► absent ──found──► logging in ──► loading ──whole──► ready
//	           ▲                 │  │            │
//	           │                 │  │            ├─► blank    ┐ again when another
//	           │                 │  │            ├─► foreign  │ token is there, or
//	           │                 │  │            └─► corrupt  ┘ rarely; foreign: adopted
//	           │                 │  └─► PIN rejected ─ again when the PIN file changes
//	           │                 └────► PIN locked ─── the same, or its flags change
//	           └──────────── again ──────────────┘
//
// run makes every transition of the picture; which error leads where says the
// table of errors.
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
}

// run returns when the context ends, after the request in hand.
func (s *supervisor) run(ctx context.Context) {
	absent := backoff{first: firstRetry, limit: lastRetry}
	logins := backoff{first: firstRetry, limit: lastLoginRetry}
	for ctx.Err() == nil {
		began := time.Now()
		err := s.connect()
		s.finishAdoption(err)
		if err == nil {
			s.enter(served)
			err = s.worker.serve(ctx)
			s.connection.close()
			s.state.seen(nil) // Until the next look.
			if time.Since(began) > lastLoginRetry {
				logins.reset()
			}
		}
		if err == nil { // The context has ended.
			break
		}
		lost := conditionOf(err)
		s.enter(lost)
		switch {
		case !lost.transient():
			s.worker.abandonPending(0)
			s.waitForChange(ctx)
		case s.connection.loggedIn:
			s.worker.abandonPending(outcomeWait)
			absent.reset()
			logins.pause(ctx)
		default:
			s.worker.abandonPending(outcomeWait)
			absent.pause(ctx)
		}
	}
	s.enter(stopping)
	s.worker.abandonPending(0)
}

// connect makes one attempt to reach the token and to open its store.
func (s *supervisor) connect() error {
	err := s.watchdog.guard("opening the store", func() error {
		if err := s.connection.reach(); err != nil {
			return err
		}
		s.enter(loading)
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

// waitForChange waits until something has changed that another attempt may
// depend on, or for a long time.
func (s *supervisor) waitForChange(ctx context.Context) {
	poll := time.NewTicker(changePollInterval)
	defer poll.Stop()
	unchanged := time.NewTimer(unchangedRetry)
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
