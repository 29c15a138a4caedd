// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"j5t.io/hsm/pkg/agent/client"
)

// connState is where a connection is in its life. It moves to the right only, and
// connections.move is the one place where it does:
//
//	           promote              drain              last call ends
//	candidate ---------> current ---------> draining -----------------> closed
//	    |                   |                   |                         ^
//	    +-------------------+-------------------+------ fail (cause) -----+
//
// A candidate that is not chosen is closed without a call. A current connection
// drains when it was lost, or when its agent asks its clients to reconnect. A
// connection fails when its agent is removed, another store is bound, another agent
// takes its place, its agent falls silent, or the client is closed; its calls end
// with that cause.
type connState int

const (
	candidate connState = iota // Dialled; its agent has a store that may be used.
	current                    // Takes new calls. There is one at most.
	draining                   // Takes no new calls. Those under way go on.
	closed
)

// connection is a connection to one agent. Its store does not change: a connection
// is never made again.
type connection struct {
	*client.Conn
	agent   Agent
	storeID string
	serves  atomic.Bool           // By the last answer of the agent.
	cause   atomic.Pointer[error] // Why the connection failed; nil: it did not.

	// Guarded by the lock of connections.
	state connState
	calls int // Under way.
}

// causeOf returns why a call on the connection failed: the cause for which this
// client has closed the connection, or the error itself.
func (c *connection) causeOf(ctx context.Context, err error) error {
	if cause := c.cause.Load(); cause != nil && ctx.Err() == nil && (status.Code(err) == codes.Canceled || isLost(err)) {
		return *cause
	}
	return err
}

// connections are the connections of one client, and the agents that they may go
// to. All states change under its lock.
type connections struct {
	mu      sync.Mutex
	agents  []Agent       // nil until they are known.
	changed chan struct{} // Closed when the agents change.
	current *connection
	open    map[*connection]struct{} // Current or draining.
	closed  bool
}

// move brings a connection to a later state; it never goes back. The caller holds
// the lock.
func (s *connections) move(c *connection, to connState) {
	if to <= c.state {
		return
	}
	c.state = to
	if to == current {
		s.open[c] = struct{}{}
		s.current = c
		return
	}
	if s.current == c {
		s.current = nil
	}
	if c.calls == 0 {
		c.state = closed
	}
	if c.state == closed {
		delete(s.open, c)
		c.Close()
	}
}

// failLocked closes a connection, and ends all calls on it with a cause.
func (s *connections) failLocked(c *connection, cause error) {
	c.cause.CompareAndSwap(nil, &cause)
	s.move(c, closed)
}

// fail closes a connection, and ends all calls on it with a cause.
func (s *connections) fail(c *connection, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(c, cause)
}

// drain keeps new calls from a connection.
func (s *connections) drain(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.move(c, draining)
}

// promote makes a candidate the current connection, and returns that. It fails the
// candidate when its agent was removed meanwhile. A current connection to the same
// agent stays, because watches are on it.
func (s *connections) promote(c *connection) (*connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	former := s.current
	switch {
	case s.closed:
		s.failLocked(c, errClosed)
		return nil, errClosed
	case !slices.Contains(s.agents, c.agent):
		s.failLocked(c, errMoved)
		return nil, errMoved
	case former != nil && former.agent == c.agent && former.storeID == c.storeID && former.Usable():
		former.serves.Store(c.serves.Load())
		s.move(c, closed)
		return former, nil
	}
	s.move(c, current)
	if former != nil {
		s.failLocked(former, errMoved)
	}
	return c, nil
}

// usable returns the current connection. It is nil when there is none, when it was
// lost, and when its agent does not serve but another one may.
func (s *connections) usable() (*connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usableLocked()
}

func (s *connections) usableLocked() (*connection, error) {
	c := s.current
	switch {
	case s.closed:
		return nil, errClosed
	case c == nil:
		return nil, nil
	case !c.Usable():
		s.move(c, draining)
		return nil, nil
	case !c.serves.Load() && len(s.agents) > 1:
		return nil, nil
	}
	return c, nil
}

// acquireUsable returns the usable connection with one more call on it.
func (s *connections) acquireUsable() (*connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.usableLocked()
	if c != nil {
		c.calls++
	}
	return c, err
}

// acquire adds a call to a connection, and reports whether it still takes calls.
func (s *connections) acquire(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.state != current {
		return false
	}
	c.calls++
	return true
}

// release ends a call. The last one closes a draining connection.
func (s *connections) release(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.calls--
	if c.state == draining && c.calls == 0 {
		s.move(c, closed)
	}
}

// setAgents replaces the agents, and fails the connections to all others.
func (s *connections) setAgents(agents []Agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.agents != nil && slices.Equal(agents, s.agents) {
		return
	}
	s.agents = append([]Agent{}, agents...)
	close(s.changed)
	s.changed = make(chan struct{})
	for c := range s.open {
		if !slices.Contains(s.agents, c.agent) {
			s.failLocked(c, errMoved)
		}
	}
}

// keepStore fails the connections to all stores but one.
func (s *connections) keepStore(storeID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if c.storeID != storeID {
			s.failLocked(c, errRebound)
		}
	}
}

// close fails all connections, and those to come.
func (s *connections) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.open {
		s.failLocked(c, errClosed)
	}
}

// known returns the agents, nil until they are known, and the channel that is
// closed when they change.
func (s *connections) known() ([]Agent, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.agents), s.changed
}

// connected returns the agent to which there is a connection, nil if there is none,
// and reports whether that agent serves the store.
func (s *connections) connected() (agent *Agent, serves bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || !s.current.Usable() {
		return nil, false
	}
	return &s.current.agent, s.current.serves.Load()
}
