// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"k8s.io/client-go/kubernetes/fake"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/test/framework/pki"
)

// double is an agent that fails as it is told.
type double struct {
	agentv1.UnimplementedStoreServer
	mu     sync.Mutex // Guards the status.
	status agentv1.StatusResponse
	get    func(context.Context, *agentv1.GetRequest) (*agentv1.GetResponse, error)
	list   func(*agentv1.ListRequest, grpc.ServerStreamingServer[agentv1.ListResponse]) error
	commit func(context.Context, *agentv1.CommitRequest) (*agentv1.CommitResponse, error)
}

func (d *double) Status(context.Context, *agentv1.StatusRequest) (*agentv1.StatusResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &agentv1.StatusResponse{
		StoreId: d.status.GetStoreId(), Reason: d.status.GetReason(), Message: d.status.GetMessage(), Revision: d.status.GetRevision(),
	}, nil
}

// say changes what the double says of itself.
func (d *double) say(reason agentv1.Reason, message string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.Reason, d.status.Message = reason, message
}

func (d *double) Get(ctx context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	return d.get(ctx, in)
}

func (d *double) List(in *agentv1.ListRequest, stream grpc.ServerStreamingServer[agentv1.ListResponse]) error {
	return d.list(in, stream)
}

func (d *double) Commit(ctx context.Context, in *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
	return d.commit(ctx, in)
}

// Watch tells of nothing.
func (d *double) Watch(_ *agentv1.WatchRequest, stream grpc.ServerStreamingServer[agentv1.WatchResponse]) error {
	if err := stream.Send(&agentv1.WatchResponse{Revision: 1}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// answering is a double that answers every get with one record.
func answering(storeID, key string) *double {
	d := &double{get: func(context.Context, *agentv1.GetRequest) (*agentv1.GetResponse, error) {
		return &agentv1.GetResponse{Record: &agentv1.Record{Key: key}, Revision: 1}, nil
	}}
	d.status.StoreId = storeID
	return d
}

// authority signs the certificates of doubles and their client.
type authority struct {
	t      *testing.T
	ca     *pki.CA
	client mtls.Files
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	ca, err := pki.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := authority{t: t, ca: ca}
	a.client = a.files("client", pki.Client)
	return a
}

func (a authority) files(name string, usage pki.Usage, names ...string) mtls.Files {
	a.t.Helper()
	cert, key, err := a.ca.Issue(name, usage, names...)
	if err != nil {
		a.t.Fatal(err)
	}
	return mtls.Files{CertFile: cert, KeyFile: key, CAFile: a.ca.CertFile}
}

// serverName is in the certificates of all doubles.
const serverName = "hsm-agent-double.hsm-system.svc"

// serve starts a double at an address, which is free if it has port 0.
func (a authority) serve(d *double, address string, options ...grpc.ServerOption) (_ string, stop func()) {
	a.t.Helper()
	creds, err := a.files("agent", pki.Server, serverName).Server()
	if err != nil {
		a.t.Fatal(err)
	}
	server := grpc.NewServer(append(options, grpc.Creds(creds))...)
	agentv1.RegisterStoreServer(server, d)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		a.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	stop = func() { server.Stop(); <-done }
	a.t.Cleanup(stop)
	return listener.Addr().String(), stop
}

// connect gives a client of agents, of a cluster of its own.
func (a authority) connect(addresses ...string) *hsm.Client {
	a.t.Helper()
	return a.connectIn(newCluster(), addresses...)
}

// connectIn gives one of several replicas, or one after another.
func (a authority) connectIn(binding hsm.StoreBinding, addresses ...string) *hsm.Client {
	a.t.Helper()
	c, err := hsm.NewClient(binding, a.client)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = c.Close() })
	c.SetAgents(agentsAt(addresses...))
	return c
}

// newCluster is a cluster that is bound to no store yet.
func newCluster() hsm.StoreBinding {
	return hsm.StoreBinding{ConfigMaps: fake.NewClientset().CoreV1(), Namespace: "hsm-system"}
}

func agentsAt(addresses ...string) []hsm.Agent {
	agents := []hsm.Agent{}
	for _, address := range addresses {
		agents = append(agents, hsm.Agent{Address: address})
	}
	return agents
}

// proxy is the network before an agent. When it is frozen, connections stay
// and carry nothing, as those of a stopped process or a lost node.
type proxy struct {
	address string
	mu      sync.Mutex
	frozen  chan struct{} // Closed while it is not frozen.
	conns   []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String(), frozen: make(chan struct{})}
	close(p.frozen)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		p.thaw()
		_ = listener.Close()
		p.cut()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", target)
			if err != nil {
				_ = from.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, from, to)
			p.mu.Unlock()
			wg.Go(func() { p.carry(from, to) })
			wg.Go(func() { p.carry(to, from) })
		}
	})
	return p
}

func (p *proxy) carry(from, to net.Conn) {
	defer func() { _ = to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.wait()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) wait() {
	p.mu.Lock()
	frozen := p.frozen
	p.mu.Unlock()
	<-frozen
}

// cut breaks all connections. New ones can be made.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.frozen:
	default:
		close(p.frozen)
	}
}
