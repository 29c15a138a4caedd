// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

const (
	// How long is waited after a failed attempt; each time twice as long, up to
	// a limit. A token that comes back is served again well within a second.
	// Attempts that come to a login become rare: most logins write to its flash.
	firstRetry, lastRetry, lastLoginRetry = 20 * time.Millisecond, 400 * time.Millisecond, time.Minute
	// How often is looked whether a person has changed something.
	lookInterval = time.Second
	// How often a token that cannot be served is tried again though nothing
	// has changed.
	rareRetry = 10 * time.Minute
	// How often an idle token is asked whether it is still there.
	probeInterval = 2 * time.Second
	// How long callers wait to learn whether their change was made.
	outcomeWait = 500 * time.Millisecond
)

// reader is where a token is put: a PKCS#11 module.
type reader interface {
	Find(pkcs11.Selector) (pkcs11.TokenInfo, error)
	TokenInfo(slotID uint) (pkcs11.TokenInfo, error)
	OpenSession(slotID uint) (session, error)
	InitToken(slotID uint, soPIN []byte, label string) error
	InitPIN(slotID uint, soPIN, userPIN []byte, justFormatted bool) error
	// Calls counts what tokens were asked for. Any goroutine may call it.
	Calls() pkcs11.Calls
	// Reinitialize forgets all that the module remembers of the token.
	Reinitialize() error
	Close() error
}

// session is a session with a token.
type session interface {
	token.Device
	Login(pin []byte) error
	SetPIN(old, pin []byte) error
	Close() error
}

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
type supervisor struct {
	reader   reader
	selector pkcs11.Selector
	pins     *pins
	identity *identity
	state    *state
	worker   *worker
	// adoptions are requests to adopt the store on a token that is refused for it.
	adoptions chan *adoption
	// onChange is told whether the token is served.
	onChange func(ready bool)

	used     bool             // The module was used before: it may remember wrongly.
	found    pkcs11.TokenInfo // At the last attempt.
	loggedIn bool             // The last attempt came to a login.
	adopting *adoption        // What the next attempt is to make.
}

// run returns when the context ends, after the request in hand.
func (s *supervisor) run(ctx context.Context) {
	absent, logins := backoff{limit: lastRetry}, backoff{limit: lastLoginRetry}
	for ctx.Err() == nil {
		began := time.Now()
		c, err := s.connect()
		s.adopted(err)
		if err == nil {
			s.enter(condition{})
			err = s.worker.serve(ctx, c, probeInterval)
			s.close(c.session)
			s.state.seen(nil) // Until the next look.
			if time.Since(began) > lastLoginRetry {
				logins.reset()
			}
		}
		if err == nil { // The context has ended.
			break
		}
		now := conditionOf(err)
		s.enter(now)
		switch {
		case !now.passes():
			s.worker.giveUp(0)
			s.waitForChange(ctx)
		case s.loggedIn:
			s.worker.giveUp(outcomeWait)
			absent.reset()
			logins.pause(ctx)
		default:
			s.worker.giveUp(outcomeWait)
			absent.pause(ctx)
		}
	}
	s.enter(stopping)
	s.worker.giveUp(0)
}

// backoff waits twice as long each time, up to a limit.
type backoff struct{ last, limit time.Duration }

func (b *backoff) pause(ctx context.Context) {
	b.last = min(max(2*b.last, firstRetry), b.limit)
	select {
	case <-ctx.Done():
	case <-time.After(b.last):
	}
}

func (b *backoff) reset() { b.last = 0 }

var stopping = condition{agentv1.Reason_REASON_LOADING, "the agent is stopping; ask again when it has been restarted"}

// enter makes a condition known. Only a ready one lets requests in.
func (s *supervisor) enter(c condition) {
	if !s.state.enter(c) {
		return
	}
	if c.ready() {
		s.worker.queue.open()
		klog.InfoS("Token is served", "serial", s.found.Serial)
	} else {
		s.worker.queue.close(c.err())
		klog.InfoS("Token is not served", "reason", c.reason, "message", c.message)
	}
	s.onChange(c.ready())
}

// waitForChange waits until something has changed that another attempt may
// depend on, or for a long time.
func (s *supervisor) waitForChange(ctx context.Context) {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	rare := time.NewTimer(rareRetry)
	defer rare.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rare.C:
			return
		case a := <-s.adoptions:
			if s.adopt(a) {
				return
			}
		case <-look.C:
			if s.pins.changed() || s.tokenChanged() {
				return
			}
		}
	}
}

func (s *supervisor) tokenChanged() bool {
	var now pkcs11.TokenInfo
	err := s.worker.watchdog.guard("looking for the token", func() (err error) {
		now, err = s.reader.Find(s.selector)
		return err
	})
	return err != nil || now != s.found
}

// connect makes one attempt to reach the token and to open its store.
func (s *supervisor) connect() (*connection, error) {
	var c *connection
	err := s.worker.watchdog.guard("opening the store", func() (err error) {
		c, err = s.open()
		return err
	})
	return c, err
}

func (s *supervisor) open() (opened *connection, err error) {
	c := &connection{}
	c.login = func() error { return s.pins.login(s.reader, c.session) }
	c.probe = func() error { return s.probe(c.session) }
	c.scrub = func() error { return s.scrub(c) }
	defer func() {
		if err != nil && c.session != nil {
			s.close(c.session)
		}
	}()
	if err := s.reach(c); err != nil {
		return nil, err
	}
	s.enter(condition{agentv1.Reason_REASON_LOADING, "the agent is reading the token's store; ask again in a moment"})
	if c.store, err = s.identity.open(c.session); err != nil {
		return nil, err
	}
	if err := s.identity.remember(c.store.ID(), s.selector, c.session.Info()); err != nil {
		return nil, err
	}
	noteLock(c.store.LockKeys())
	s.state.opened(c.store.ID())
	if err := s.worker.load(c.store); err != nil {
		return nil, err
	}
	return c, nil
}

// reach finds the token, past what the module remembers of it, and logs in.
func (s *supervisor) reach(c *connection) error {
	s.loggedIn = false
	if s.used {
		if err := s.reader.Reinitialize(); err != nil {
			return err
		}
	}
	s.used = true
	info, err := s.find()
	if err != nil {
		return err
	}
	if !info.UserPINInitialized || s.pins.isFormatting() {
		if err := s.identity.mayInitialise(info); err != nil {
			return err
		}
		if err := s.pins.initialise(s.reader, info); err != nil {
			return err
		}
		// It may call itself by another serial number now, and by another slot.
		if err := s.reader.Reinitialize(); err != nil {
			return err
		}
		if info, err = s.find(); err != nil {
			return err
		}
	}
	session, err := s.reader.OpenSession(info.SlotID)
	if err != nil {
		return err
	}
	c.session = session
	s.loggedIn = true
	return c.login()
}

// find finds the token, and makes sure that it is the one of this agent.
func (s *supervisor) find() (pkcs11.TokenInfo, error) {
	info, err := s.reader.Find(s.selector)
	if err == nil {
		err = s.identity.check(s.selector, info)
	}
	if err != nil {
		s.state.seen(nil)
		return info, err
	}
	s.found = info
	s.state.seen(&info)
	return info, nil
}

// scrub reads a store that is served from the token itself. Requests wait.
func (s *supervisor) scrub(c *connection) error {
	s.close(c.session)
	if err := s.reach(c); err != nil {
		return err
	}
	_, err := c.store.Scrub(c.session)
	return err
}

// probe asks without a login whether the same token is still in the reader, and
// follows the PIN files.
func (s *supervisor) probe(session session) error {
	served := session.Info()
	now, err := s.reader.TokenInfo(served.SlotID)
	if err == nil && now.Serial != served.Serial {
		err = pkcs11.ErrTokenAbsent
	}
	if err != nil {
		return err
	}
	return s.pins.follow(s.reader, session)
}

// close ends a session, which may be dead already.
func (s *supervisor) close(c session) {
	if err := c.Close(); err != nil {
		klog.V(2).InfoS("Closing the session with the token failed", "err", err)
	}
}
