// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"j5t.io/hsm/test/framework/process"
)

// drainTime is for how long a replica that was told to stop serves on. The
// balancer takes less to notice, on a slow machine too; Services of a real
// cluster take seconds.
const drainTime = 5 * time.Second

// replica is one of the API servers behind the balancer.
type replica struct {
	spec    process.Spec
	port    int
	mu      sync.Mutex
	process *process.Process
	ready   bool
}

// stop ends the replica, with SIGTERM or at once.
func (r *replica) stop(ctx context.Context, gracefully bool) error {
	if gracefully {
		return r.process.Stop(ctx)
	}
	return r.process.Signal(syscall.SIGKILL)
}

func (r *replica) start(ctx context.Context) error {
	<-r.process.Done()
	p, err := process.Start(ctx, r.spec)
	if err == nil {
		r.process = p
	}
	return err
}

func (r *replica) isReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready
}

// balancer is a Service: one address, connections to which go to replicas that
// are ready.
type balancer struct {
	listener net.Listener
	replicas []*replica
	work     sync.WaitGroup
	end      context.CancelFunc

	mu    sync.Mutex
	next  int
	conns map[net.Conn]struct{}
}

// startReplicas serves hsm.j5t.io from replicas of the API server behind one
// address, until the test ends.
func startReplicas(t *testing.T, n int) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	b := &balancer{listener: listener, end: end, conns: map[net.Conn]struct{}{}}
	single := hsm.APIServerPort()
	t.Cleanup(func() {
		if err := hsm.ServeFrom(context.Background(), single); err != nil {
			t.Error(err)
		}
		b.stop()
	})
	for i := range n {
		port, err := process.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		spec, err := hsm.APIServerSpec(t.Context(), "apiserver-"+strconv.Itoa(i), port)
		if err != nil {
			t.Fatal(err)
		}
		spec.Args = append(spec.Args, "--shutdown-delay-duration="+drainTime.String())
		r := &replica{spec: spec, port: port}
		if r.process, err = process.Start(soon(t), spec); err != nil {
			t.Fatal(err)
		}
		b.replicas = append(b.replicas, r)
		b.work.Go(func() { r.probe(ctx) })
	}
	b.work.Go(b.accept)
	if err := hsm.ServeFrom(soon(t), listener.Addr().(*net.TCPAddr).Port); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *balancer) stop() {
	b.end()
	_ = b.listener.Close()
	b.mu.Lock()
	for conn := range b.conns {
		_ = conn.Close()
	}
	b.mu.Unlock()
	for _, r := range b.replicas {
		r.process.Kill()
	}
	b.work.Wait()
}

// probe asks for readiness as a kubelet does.
func (r *replica) probe(ctx context.Context) {
	ask := hsm.APIServerAnswers(r.port, "/readyz")
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask(ctx)
		r.mu.Lock()
		r.ready = err == nil
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (b *balancer) accept() {
	for {
		client, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.work.Go(func() { b.serve(client) })
	}
}

func (b *balancer) serve(client net.Conn) {
	defer client.Close()
	server, err := b.dial()
	if err != nil {
		return
	}
	defer server.Close()
	b.track(client, server)
	defer b.untrack(client, server)
	var both sync.WaitGroup
	both.Go(func() { carry(condition{}, server, client); _ = server.Close() })
	both.Go(func() { carry(condition{}, client, server); _ = client.Close() })
	both.Wait()
}

func (b *balancer) track(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conn := range conns {
		b.conns[conn] = struct{}{}
	}
}

func (b *balancer) untrack(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conn := range conns {
		delete(b.conns, conn)
	}
}

// dial connects to the next replica that is ready.
func (b *balancer) dial() (net.Conn, error) {
	b.mu.Lock()
	b.next++
	first := b.next
	b.mu.Unlock()
	err := errors.New("no replica is ready")
	for i := range b.replicas {
		r := b.replicas[(first+i)%len(b.replicas)]
		if !r.isReady() {
			continue
		}
		var conn net.Conn
		if conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}
