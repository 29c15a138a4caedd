// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/faulttoken"
)

// gates make calls to a token wait, so that a test can say what happens first.
type gates struct {
	mu   sync.Mutex
	shut map[string]chan struct{} // By function.
	held chan string              // The functions that have come to their gate.
}

func newGates() *gates {
	return &gates{shut: map[string]chan struct{}{}, held: make(chan string, 8)}
}

// hold makes the next call of a function wait until release is called. Its
// arrival is told by held.
func (g *gates) hold(function string) (release func()) {
	gate := make(chan struct{})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut[function] = gate
	return sync.OnceFunc(func() { close(gate) })
}

func (g *gates) pass(function string) {
	g.mu.Lock()
	gate := g.shut[function]
	delete(g.shut, function)
	g.mu.Unlock()
	if gate != nil {
		g.held <- function
		<-gate
	}
}

// gatedModule is a module whose tokens are behind gates.
type gatedModule struct {
	module
	gates *gates
}

func (r gatedModule) OpenSession(slotID uint) (session, error) {
	s, err := r.module.OpenSession(slotID)
	if err != nil {
		return nil, err
	}
	return &gatedSession{s, r.gates}, nil
}

type gatedSession struct {
	session
	gates *gates
}

func (s *gatedSession) Value(h pkcs11.Handle) ([]byte, error) {
	s.gates.pass(faulttoken.Read)
	return s.session.Value(h)
}

func (s *gatedSession) Create(label, application string, value []byte) (pkcs11.Handle, error) {
	s.gates.pass(faulttoken.Create)
	return s.session.Create(label, application, value)
}

func (s *gatedSession) Destroy(h pkcs11.Handle) error {
	s.gates.pass(faulttoken.Destroy)
	return s.session.Destroy(h)
}
