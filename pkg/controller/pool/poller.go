// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	agentclient "j5t.io/hsm/pkg/agent/client"
	"j5t.io/hsm/pkg/mtls"
)

const (
	// pollInterval is the time between two polls of an agent.
	pollInterval = 2 * time.Second
	// pollTimeout is how long one poll may take, with a new connection if it needs one.
	pollTimeout = 3 * time.Second
	// missedPolls is how many intervals without an answer make an agent unreachable.
	missedPolls = 2
	// fastPoll is how many times as often a new agent is polled, until it serves its
	// token, for fastPollTime at most.
	fastPoll     = 5
	fastPollTime = time.Minute
	// connectionAge is how long a connection is kept: a new one shows the certificate
	// that the agent has now.
	connectionAge = 10 * time.Minute
)

// poller asks agents for their status, each in a goroutine of its own, and keeps
// their last answers. No reconciliation waits for it.
type poller struct {
	files    mtls.Files
	interval time.Duration
	// changed is called when an answer differs from the one before.
	changed func()

	mu sync.Mutex
	// ctx is nil before Start. Its end is the end of all polls.
	ctx     context.Context
	running map[agentclient.Endpoint]context.CancelFunc
	wanted  map[agentclient.Endpoint]bool
	answers map[agentclient.Endpoint]*answer
	all     sync.WaitGroup
}

func newPoller(files mtls.Files, interval time.Duration, changed func()) *poller {
	return &poller{
		files: files, interval: interval, changed: changed,
		running: map[agentclient.Endpoint]context.CancelFunc{}, answers: map[agentclient.Endpoint]*answer{},
	}
}

// Start polls until the context ends. It is a manager.Runnable of the leader.
func (p *poller) Start(ctx context.Context) error {
	p.mu.Lock()
	p.ctx = ctx
	p.syncLocked()
	p.mu.Unlock()
	<-ctx.Done()
	p.all.Wait()
	return nil
}

// setAgents replaces the agents that are polled.
func (p *poller) setAgents(wanted map[agentclient.Endpoint]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = wanted
	p.syncLocked()
}

// lastAnswers returns the last answer of each agent.
func (p *poller) lastAnswers() map[agentclient.Endpoint]*answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.answers)
}

// syncLocked starts and ends goroutines, so that the wanted agents are polled.
func (p *poller) syncLocked() {
	if p.ctx == nil || p.ctx.Err() != nil {
		return
	}
	for endpoint, cancel := range p.running {
		if !p.wanted[endpoint] {
			cancel()
			delete(p.running, endpoint)
			delete(p.answers, endpoint)
		}
	}
	for endpoint := range p.wanted {
		if p.running[endpoint] == nil {
			ctx, cancel := context.WithCancel(p.ctx)
			p.running[endpoint] = cancel
			p.all.Go(func() { p.follow(ctx, endpoint) })
		}
	}
}

// follow polls one agent until the context ends.
func (p *poller) follow(ctx context.Context, endpoint agentclient.Endpoint) {
	agent := &polledAgent{files: p.files, endpoint: endpoint}
	defer agent.hangUp()
	begun := time.Now()
	heard, served := begun, false
	timer := time.NewTimer(p.interval)
	defer timer.Stop()
	for {
		got, err := agent.poll(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			heard, served = time.Now(), served || got.status.GetReason() == agentv1.Reason_REASON_UNSPECIFIED
			p.keep(ctx, endpoint, got)
		case time.Since(heard) >= missedPolls*p.interval:
			p.keep(ctx, endpoint, &answer{err: err})
		}
		if !served && time.Since(begun) < fastPollTime {
			timer.Reset(p.interval / fastPoll)
		} else {
			timer.Reset(p.interval)
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// keep keeps an answer, and reports a change. Of an agent that has fallen silent it
// keeps the first error, beside the last status.
func (p *poller) keep(ctx context.Context, endpoint agentclient.Endpoint, got *answer) {
	p.mu.Lock()
	last := p.answers[endpoint]
	if last == nil {
		last = &answer{}
	}
	same := p.answers[endpoint] != nil && last.err == nil && got.err == nil && proto.Equal(last.status, got.status) && last.expiry.Equal(got.expiry)
	if got.err != nil {
		same = last.err != nil
		got.status, got.expiry = last.status, last.expiry
	}
	if same || ctx.Err() != nil {
		p.mu.Unlock()
		return
	}
	p.answers[endpoint] = got
	p.mu.Unlock()
	p.changed()
}

// polledAgent holds the connection to one agent from poll to poll.
type polledAgent struct {
	files    mtls.Files
	endpoint agentclient.Endpoint
	conn     *agentclient.Conn // nil: none.
	dialled  time.Time
}

// poll asks for the status, over a new connection if there is none that is good.
func (a *polledAgent) poll(ctx context.Context) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	if a.conn != nil && (!a.conn.Usable() || time.Since(a.dialled) > connectionAge) {
		a.hangUp()
	}
	var response *agentv1.StatusResponse
	var err error
	if a.conn == nil {
		response, err = a.dial(ctx)
	} else {
		response, err = a.conn.Status(ctx)
	}
	switch {
	case err == nil:
		return &answer{status: response, expiry: a.conn.CertificateExpiry()}, nil
	case status.Code(err) == codes.DeadlineExceeded:
		err = fmt.Errorf("no answer within %s", pollTimeout)
	default:
		err = errors.New(status.Convert(err).Message())
	}
	a.hangUp()
	return nil, err
}

// dial reads the files: they may not exist yet when the controller starts.
func (a *polledAgent) dial(ctx context.Context) (*agentv1.StatusResponse, error) {
	if a.files == (mtls.Files{}) {
		return nil, errors.New("the controller runs without --agent-ca-file, --agent-cert-file and --agent-key-file")
	}
	dialer, err := agentclient.NewDialer(a.files)
	if err != nil {
		return nil, err
	}
	conn, response, err := dialer.Dial(ctx, a.endpoint)
	if err != nil {
		return nil, err
	}
	a.conn, a.dialled = conn, time.Now()
	return response, nil
}

func (a *polledAgent) hangUp() {
	if a.conn != nil {
		a.conn.Close()
		a.conn = nil
	}
}
