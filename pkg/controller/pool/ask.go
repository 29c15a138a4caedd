// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
)

const (
	// askInterval is the time between two questions to an agent.
	askInterval = 2 * time.Second
	// askTimeout is how long an answer may take.
	askTimeout = 3 * time.Second
	// patience is how many such times without an answer make an agent unreachable.
	patience = 2
	// hurry is how many times as often an agent is asked that was not there before,
	// until it serves its token, for hurryTime at most.
	hurry     = 5
	hurryTime = time.Minute
	// connectionAge is how long a connection is kept: a new one shows the certificate
	// that the agent has now.
	connectionAge = 10 * time.Minute
)

// target is an agent to ask.
type target struct {
	endpoint, serverName string
}

// asker asks agents how they are, each in a goroutine of its own, and remembers what
// they answer. Nobody waits for it.
type asker struct {
	files    mtls.Files
	interval time.Duration
	// changed is called when an answer is another one than before.
	changed func()

	mu sync.Mutex
	// ctx is nil before Start; it ends all questions.
	ctx     context.Context
	running map[target]context.CancelFunc
	wanted  map[target]bool
	answers map[target]*answer
	all     sync.WaitGroup
}

func newAsker(files mtls.Files, interval time.Duration, changed func()) *asker {
	return &asker{
		files: files, interval: interval, changed: changed,
		running: map[target]context.CancelFunc{}, answers: map[target]*answer{},
	}
}

// Start asks until the context ends. It is a manager.Runnable of the leader.
func (a *asker) Start(ctx context.Context) error {
	a.mu.Lock()
	a.ctx = ctx
	a.start()
	a.mu.Unlock()
	<-ctx.Done()
	a.all.Wait()
	return nil
}

// ask says which agents to ask from now on.
func (a *asker) ask(targets map[target]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wanted = targets
	a.start()
}

// answered returns what they answered last.
func (a *asker) answered() map[target]*answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.answers)
}

// start brings the goroutines to what is wanted. The caller holds the lock.
func (a *asker) start() {
	if a.ctx == nil || a.ctx.Err() != nil {
		return
	}
	for t, cancel := range a.running {
		if !a.wanted[t] {
			cancel()
			delete(a.running, t)
			delete(a.answers, t)
		}
	}
	for t := range a.wanted {
		if a.running[t] == nil {
			ctx, cancel := context.WithCancel(a.ctx)
			a.running[t] = cancel
			a.all.Go(func() { a.follow(ctx, t) })
		}
	}
}

// follow asks one agent again and again.
func (a *asker) follow(ctx context.Context, t target) {
	var conn *grpc.ClientConn
	var dialled time.Time
	hangUp := func() {
		if conn != nil {
			_ = conn.Close()
			conn = nil
		}
	}
	defer hangUp()
	begun := time.Now()
	heard, served := begun, false
	timer := time.NewTimer(a.interval)
	defer timer.Stop()
	for {
		var got *answer
		var err error
		if time.Since(dialled) > connectionAge {
			hangUp()
		}
		if conn == nil {
			conn, err = a.dial(t)
			dialled = time.Now()
		}
		if err == nil {
			got, err = question(ctx, conn)
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			heard, served = time.Now(), served || got.status.GetReason() == agentv1.Reason_REASON_UNSPECIFIED
			a.note(ctx, t, got)
		case time.Since(heard) >= patience*a.interval:
			a.note(ctx, t, &answer{err: err})
		}
		if !served && time.Since(begun) < hurryTime {
			timer.Reset(a.interval / hurry)
		} else {
			timer.Reset(a.interval)
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// note remembers an answer, and tells if it is a new one. Of an agent that is silent
// the first error is kept, beside what it answered last.
func (a *asker) note(ctx context.Context, t target, got *answer) {
	a.mu.Lock()
	last := a.answers[t]
	if last == nil {
		last = &answer{}
	}
	same := a.answers[t] != nil && last.err == nil && got.err == nil && proto.Equal(last.status, got.status) && last.expiry.Equal(got.expiry)
	if got.err != nil {
		same = last.err != nil
		got.status, got.expiry = last.status, last.expiry
	}
	if same || ctx.Err() != nil {
		a.mu.Unlock()
		return
	}
	a.answers[t] = got
	a.mu.Unlock()
	a.changed()
}

// dial reads the files: they may not be there yet when the controller starts.
func (a *asker) dial(t target) (*grpc.ClientConn, error) {
	if a.files == (mtls.Files{}) {
		return nil, errors.New("the controller runs without --agent-ca-file, --agent-cert-file and --agent-key-file")
	}
	creds, err := a.files.Client()
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+t.endpoint,
		grpc.WithTransportCredentials(creds),
		grpc.WithAuthority(t.serverName),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: a.interval / hurry, Multiplier: 1, MaxDelay: a.interval / hurry},
			MinConnectTimeout: askTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: askTimeout}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
}

// maxAnswer is more than a status with all that it may name.
const maxAnswer = 1 << 20

func question(ctx context.Context, conn *grpc.ClientConn) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var agent peer.Peer
	response, err := agentv1.NewStoreClient(conn).Status(ctx, &agentv1.StatusRequest{}, grpc.Peer(&agent), grpc.WaitForReady(false))
	switch {
	case status.Code(err) == codes.DeadlineExceeded:
		return nil, fmt.Errorf("no answer within %s", askTimeout)
	case err != nil:
		return nil, errors.New(status.Convert(err).Message())
	}
	got := &answer{status: response}
	if info, ok := agent.AuthInfo.(credentials.TLSInfo); ok {
		got.expiry = expiry(info.State)
	}
	return got, nil
}

func expiry(state tls.ConnectionState) time.Time {
	if len(state.PeerCertificates) == 0 {
		return time.Time{}
	}
	return state.PeerCertificates[0].NotAfter
}
