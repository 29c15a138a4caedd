// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/faulttoken"
	"j5t.io/hsm/test/framework/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var wide = mvcc.Limits{Events: 1 << 20, Bytes: 1 << 40, Age: time.Hour}

const deadline = 5 * time.Minute

// faultModule is a module with a reader, and a fault-injecting token in it.
type faultModule struct {
	mu       sync.Mutex
	token    *faulttoken.Token
	serial   string                        // Of the token; empty: that of faulttoken.
	name     string                        // Of the reader.
	twin     *pkcs11.TokenInfo             // Another token, in another reader.
	hidden   bool                          // The token is not seen.
	looks    int                           // Calls of Find and TokenInfo.
	inits    int                           // Calls of InitPIN.
	refusals int                           // Calls that were refused.
	pin      string                        // Of the token; empty: that of faulttoken.
	setPIN   func() (done bool, err error) // What the next C_SetPIN does; nil: what it should.
	refuse   map[string]uint               // Functions that always fail, and the code that they fail with.
}

// refuseAlways makes a function fail until permit is called. The token answers all others.
func (r *faultModule) refuseAlways(function string, code uint) (permit func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse == nil {
		r.refuse = map[string]uint{}
	}
	r.refuse[function] = code
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.refuse, function)
	}
}

func (r *faultModule) refused(function string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code, ok := r.refuse[function]; ok {
		r.refusals++
		return &pkcs11.Error{Op: function, Code: code}
	}
	return nil
}

// countRefusals counts the calls that refuseAlways has refused.
func (r *faultModule) countRefusals() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refusals
}

// pull takes the token out of the reader.
func (r *faultModule) pull() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hidden = true
	r.token.Remove()
}

// plug puts it back.
func (r *faultModule) plug() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hidden = false
	r.token.Insert()
}

// swap puts another token into the reader, and says which serial it has; empty:
// that of faulttoken.
func (r *faultModule) swap(t *faulttoken.Token, serial string) (before *faulttoken.Token) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before = r.token
	r.token, r.serial = t, serial
	return before
}

func (r *faultModule) Find(s pkcs11.Selector) (pkcs11.TokenInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks++
	info := r.info()
	s = pkcs11.Selector{Serial: s.Serial}
	if r.hidden || !r.token.Present() || !s.Matches(info) {
		return pkcs11.TokenInfo{}, pkcs11.ErrTokenAbsent
	}
	if r.twin != nil && s.Matches(*r.twin) {
		return pkcs11.TokenInfo{}, pkcs11.ErrTokenAmbiguous
	}
	return info, nil
}

func (r *faultModule) info() pkcs11.TokenInfo {
	info := r.token.Info()
	info.Serial = cmp.Or(r.serial, info.Serial)
	info.Reader = r.name
	return info
}

// looked tells how often was looked for the token.
func (r *faultModule) looked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.looks
}

// TokenInfo is of the one reader, whatever is in others.
func (r *faultModule) TokenInfo(uint) (pkcs11.TokenInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks++
	if r.hidden || !r.token.Present() {
		return pkcs11.TokenInfo{}, pkcs11.ErrTokenAbsent
	}
	return r.info(), nil
}

func (r *faultModule) OpenSession(uint) (session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.token.OpenSession()
	if err != nil {
		return nil, err
	}
	return &faultSession{s, r}, nil
}

// InitToken gives no label to tokens that are reached through OpenSC, as pkcs11.Module does.
func (r *faultModule) InitToken(_ uint, soPIN []byte, _ string) error {
	return r.token.InitToken(string(soPIN), nil)
}

// InitPIN without a token takes no PIN for the right one.
func (r *faultModule) InitPIN(_ uint, soPIN, pin []byte, _ bool) error {
	r.inits++
	if r.token == nil {
		return &pkcs11.Error{Op: "C_Login", Code: pkcs11.CKRPINIncorrect}
	}
	return r.token.InitPIN(string(soPIN), string(pin))
}

func (r *faultModule) Reinitialize() error { return nil }
func (r *faultModule) Close() error        { return nil }

func (r *faultModule) Calls() pkcs11.Calls {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.token.Counters().Calls
	return pkcs11.Calls{
		Logins:     uint64(calls[faulttoken.Login]),
		ValueReads: uint64(calls[faulttoken.Read]),
		Creates:    uint64(calls[faulttoken.Create]),
		Destroys:   uint64(calls[faulttoken.Destroy]),
	}
}

type faultSession struct {
	*faulttoken.Session
	module *faultModule
}

// Create fails while it is refused.
func (s *faultSession) Create(label, application string, value []byte) (pkcs11.Handle, error) {
	if err := s.module.refused(faulttoken.Create); err != nil {
		return 0, err
	}
	return s.Session.Create(label, application, value)
}

// Destroy fails while it is refused.
func (s *faultSession) Destroy(h pkcs11.Handle) error {
	if err := s.module.refused(faulttoken.Destroy); err != nil {
		return err
	}
	return s.Session.Destroy(h)
}

// Logout cannot fail.
func (s *faultSession) Logout() error {
	s.Session.Logout()
	return nil
}

// Login does as pkcs11.Session does.
func (s *faultSession) Login(pin []byte) error {
	pin = s.module.translate(pin)
	err := s.Session.Login(pin)
	var failure *pkcs11.Error
	if errors.As(err, &failure) && failure.Code == pkcs11.CKRUserAlreadyLoggedIn {
		s.Session.Logout()
		err = s.Session.Login(pin)
	}
	return err
}

// translate gives the fault-injecting token, which has one PIN for life, that
// PIN for the right one.
func (r *faultModule) translate(pin []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.pin == "":
		return pin
	case string(pin) == r.pin:
		return []byte(faulttoken.PIN)
	}
	return []byte("wrong")
}

// SetPIN is C_SetPIN of a token that takes PINs of up to 15 characters.
func (s *faultSession) SetPIN(old, pin []byte) error {
	r := s.module
	r.mu.Lock()
	defer r.mu.Unlock()
	refuse := func(code uint) error { return &pkcs11.Error{Op: "C_SetPIN", Code: code} }
	if string(old) != cmp.Or(r.pin, faulttoken.PIN) {
		return refuse(pkcs11.CKRPINIncorrect)
	}
	if len(pin) > 15 {
		return refuse(pkcs11.CKRPINLenRange)
	}
	if r.setPIN != nil {
		done, err := r.setPIN()
		r.setPIN = nil
		if !done {
			return err
		}
		r.pin = string(pin)
		return err
	}
	r.pin = string(pin)
	return nil
}

func (s *faultSession) Close() error { return nil }

// harness is an agent on a token, and a client of it.
type harness struct {
	*testing.T
	*Agent
	gates  *gates
	module *faultModule      // nil on a real token.
	token  *faulttoken.Token // nil on a real token.
	store  agentv1.StoreClient
	device agentv1.DeviceClient
	ctx    context.Context
	stop   func() // The agent, as SIGTERM does.
}

// options of an agent in directories of its own, with the right PIN.
func testOptions(t *testing.T) (Options, mtls.Files) {
	t.Helper()
	ca, err := pki.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string, usage pki.Usage) mtls.Files {
		cert, key, err := ca.Issue(name, usage)
		if err != nil {
			t.Fatal(err)
		}
		return mtls.Files{CertFile: cert, KeyFile: key, CAFile: ca.CertFile}
	}
	o := Options{
		PINFile: filepath.Join(t.TempDir(), "pin"), StateDir: t.TempDir(), Provision: true,
		TLS: issue("agent", pki.Server), History: wide,
	}
	writePIN(t, o, faulttoken.PIN)
	return o, issue(agentv1.ClientAPIServer, pki.Client)
}

func writePIN(t *testing.T, o Options, pin string) {
	t.Helper()
	if err := os.WriteFile(o.PINFile, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts an agent, and waits until it serves a new token.
func start(t *testing.T) *harness {
	t.Helper()
	h := run(t, faulttoken.New(faulttoken.SoftHSM), func(*Options) {})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	return h
}

func run(t *testing.T, token *faulttoken.Token, edit func(*Options)) *harness {
	t.Helper()
	o, files := testOptions(t)
	edit(&o)
	return runWith(t, token, o, files)
}

func runWith(t *testing.T, token *faulttoken.Token, o Options, files mtls.Files) *harness {
	t.Helper()
	m := &faultModule{token: token}
	h := runOn(t, m, o, files)
	h.module, h.token = m, token
	return h
}

func runOn(t *testing.T, m module, o Options, files mtls.Files) *harness {
	t.Helper()
	gates := newGates()
	a, err := newAgent(o, gatedModule{m, gates})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, listener) }()
	creds, err := files.Client()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(
		grpc.MaxCallRecvMsgSize(agentv1.MaxMessageBytes), grpc.MaxCallSendMsgSize(agentv1.MaxMessageBytes)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	requests, end := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(end)
	return &harness{
		T: t, Agent: a, gates: gates, ctx: requests, stop: stop,
		store: agentv1.NewStoreClient(conn), device: agentv1.NewDeviceClient(conn),
	}
}

// patient gives the requests of a test more time than the usual deadline.
func (h *harness) patient(deadline time.Duration) *harness {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	h.Cleanup(cancel)
	h.ctx = ctx
	return h
}

// eventually waits for a condition.
func (h *harness) eventually(what string, holds func() bool) {
	h.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-h.ctx.Done():
			h.Fatalf("in vain waited until %s", what)
		}
	}
}

func (h *harness) await(reason agentv1.Reason) {
	h.Helper()
	h.eventually("the reason is "+reason.String(), func() bool { return h.status().GetReason() == reason })
}

func (h *harness) status() *agentv1.StatusResponse {
	h.Helper()
	status, err := h.store.Status(h.ctx, &agentv1.StatusRequest{})
	if err != nil {
		h.Fatal(err)
	}
	return status
}

// awaitHeld waits until a call of the token has come to its gate. The test fails if none does.
func (h *harness) awaitHeld() {
	h.Helper()
	select {
	case <-h.gates.held:
	case <-h.ctx.Done():
		h.Error("no call of the token has come to its gate")
	}
}

// holdFirst makes the write of a record "first", which the token is busy with until it is
// released: what comes meanwhile waits. The group waits for the write.
func (h *harness) holdFirst(group *sync.WaitGroup) (release func()) {
	h.Helper()
	release = h.gates.hold(faulttoken.Create)
	group.Go(func() { h.commit(put("first", 0, "x")) })
	h.awaitHeld()
	return release
}

// awaitWaiting waits until so many requests wait for the token.
func (h *harness) awaitWaiting(n int) {
	h.Helper()
	h.eventually("requests wait", func() bool { return len(h.supervisor.worker.queue.requests()) == n })
}

func put(key string, expected uint64, data string) *agentv1.CommitRequest {
	return &agentv1.CommitRequest{Key: key, ExpectedRevision: expected, Change: &agentv1.CommitRequest_Put{Put: &agentv1.Put{
		Address: "at " + key, Meta: []byte("meta"), Data: []byte(data),
	}}}
}

func setStatus(key string, expected uint64, status string) *agentv1.CommitRequest {
	return &agentv1.CommitRequest{Key: key, ExpectedRevision: expected,
		Change: &agentv1.CommitRequest_SetStatus{SetStatus: &agentv1.SetStatus{Status: []byte(status)}}}
}

func remove(key string, expected uint64) *agentv1.CommitRequest {
	return &agentv1.CommitRequest{Key: key, ExpectedRevision: expected, Change: &agentv1.CommitRequest_Delete{Delete: &agentv1.Delete{}}}
}

// commit makes a change, which must be made.
func (h *harness) commit(in *agentv1.CommitRequest) *agentv1.CommitResponse {
	h.Helper()
	out, err := h.store.Commit(h.ctx, in)
	if err != nil {
		h.Fatal(err)
	}
	if !out.GetCommitted() {
		h.Fatalf("record %q is not at revision %d", in.GetKey(), in.GetExpectedRevision())
	}
	return out
}

func (h *harness) get(key string) *agentv1.Record {
	h.Helper()
	out, err := h.store.Get(h.ctx, &agentv1.GetRequest{Key: key})
	if err != nil {
		h.Fatal(err)
	}
	return out.GetRecord()
}

func (h *harness) list(in *agentv1.ListRequest) ([]*agentv1.Record, *agentv1.ListEnd, error) {
	h.Helper()
	stream, err := h.store.List(h.ctx, in)
	if err != nil {
		h.Fatal(err)
	}
	var records []*agentv1.Record
	for {
		out, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				h.Fatal("the list ended without an end")
			}
			return nil, nil, err
		}
		records = append(records, out.GetRecords()...)
		if out.GetEnd() != nil {
			return records, out.GetEnd(), nil
		}
	}
}

// watch opens a watch and takes its first message.
func (h *harness) watch(in *agentv1.WatchRequest) agentv1.Store_WatchClient {
	h.Helper()
	ctx, cancel := context.WithCancel(h.ctx)
	h.Cleanup(cancel)
	stream, err := h.store.Watch(ctx, in)
	if err != nil {
		h.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		h.Fatal(err)
	}
	if len(first.GetEvents()) > 0 || in.GetRevision() > 0 && first.GetRevision() != in.GetRevision() {
		h.Fatalf("the first message is %v", first)
	}
	return stream
}

// events takes messages until one brings the position to a revision.
func (h *harness) events(stream agentv1.Store_WatchClient, until uint64) []*agentv1.Event {
	h.Helper()
	var events []*agentv1.Event
	for {
		out, err := stream.Recv()
		if err != nil {
			h.Fatal(err)
		}
		events = append(events, out.GetEvents()...)
		if out.GetRevision() >= until {
			return events
		}
	}
}
