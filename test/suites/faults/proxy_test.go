// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"io"
	"net"
	"sync"
	"time"
)

// network as it can be. The zero value is a good one.
type condition struct {
	// CutAfter ends each connection when so many bytes have come back on it.
	CutAfter int64
	// Latency is added to each piece of data, either way.
	Latency time.Duration
	// Lost: connections are made, and all that is sent on them is lost.
	Lost bool
}

// proxy is the network before one TCP address. Its condition can be changed at
// any time, for new connections; the others are ended then.
type proxy struct {
	address  string
	target   string
	listener net.Listener
	carriers sync.WaitGroup

	mu        sync.Mutex
	condition condition
	conns     map[net.Conn]struct{}
	closed    bool
}

func newProxy(target string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{address: listener.Addr().String(), target: target, listener: listener, conns: map[net.Conn]struct{}{}}
	p.carriers.Go(p.accept)
	return p, nil
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.become(condition{})
	p.carriers.Wait()
}

// become changes the network and ends all connections.
func (p *proxy) become(c condition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.condition = c
	for conn := range p.conns {
		_ = conn.Close()
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.carriers.Go(func() { p.serve(client) })
	}
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	c, ok := p.track(client, server)
	if !ok {
		return
	}
	defer p.untrack(client, server)
	var fromServer io.Reader = server
	if c.CutAfter > 0 {
		fromServer = io.LimitReader(server, c.CutAfter)
	}
	var both sync.WaitGroup
	both.Go(func() { carry(c, server, client); _ = server.Close() })
	both.Go(func() { carry(c, client, fromServer); _ = client.Close() })
	both.Wait()
}

// track returns the condition that holds for a new connection.
func (p *proxy) track(conns ...net.Conn) (condition, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return condition{}, false
	}
	for _, conn := range conns {
		p.conns[conn] = struct{}{}
	}
	return p.condition, true
}

func (p *proxy) untrack(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
	}
}

func carry(c condition, to io.Writer, from io.Reader) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if c.Latency > 0 {
			time.Sleep(c.Latency)
		}
		if n > 0 && !c.Lost {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
