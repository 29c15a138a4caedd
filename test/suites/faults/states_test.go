// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/process"
)

// answerWithin is how soon a request in an outage is answered, beyond what the same requests take on this
// machine when all is well.
const answerWithin = 5 * time.Second

// state is one in which agent and token can be.
type state struct {
	name string
	// enter brings it about, and returns what mends it.
	enter func(*testing.T) (restore func())
	// cause is what programs are told; empty where that depends on the request.
	cause string
	// namespaces are deleted in it.
	namespaces bool
	// partly: some requests can be answered, with the truth.
	partly bool
	// sent: a change may be made although it fails, and is told so (504).
	sent bool
}

func (s state) id() string { return strings.ReplaceAll(strings.ToLower(s.name), " ", "-") }

// agentState is one that the agent itself knows of, after a change to the token
// and to how the agent is started.
func agentState(name string, reason agentv1.Reason, token func(*testing.T), change func(*testing.T, *process.Spec)) state {
	return state{name: name, cause: strings.TrimPrefix(reason.String(), "REASON_"), enter: func(t *testing.T) func() {
		t.Helper()
		hsm.Agent.Kill()
		putBack := keepToken(t)
		token(t)
		startAgent(t, reason, func(spec *process.Spec) { change(t, spec) })
		return func() {
			hsm.Agent.Kill()
			putBack()
			restartAgent(t)
		}
	}}
}

func networkState(name string, c condition) state {
	return state{name: name, partly: true, sent: true, enter: func(*testing.T) func() {
		network.become(c)
		return func() { network.become(condition{}) }
	}}
}

func inNamespaces(s state) state {
	s.namespaces = true
	return s
}

func nothing(*testing.T) {}

func asEver(*testing.T, *process.Spec) {}

var states = []state{
	{name: "pulled", cause: "TOKEN_ABSENT", namespaces: true, enter: func(t *testing.T) func() {
		plug := pullToken(t)
		waitForReason(t, agentv1.Reason_REASON_TOKEN_ABSENT)
		return func() { plug(); waitForReason(t, agentv1.Reason_REASON_UNSPECIFIED) }
	}},
	{name: "absent since the agent was started", cause: "TOKEN_ABSENT", namespaces: true, enter: func(t *testing.T) func() {
		hsm.Agent.Kill()
		plug := pullToken(t)
		startAgent(t, agentv1.Reason_REASON_TOKEN_ABSENT, nil)
		return func() { plug(); waitForReason(t, agentv1.Reason_REASON_UNSPECIFIED) }
	}},
	agentState("blank", agentv1.Reason_REASON_TOKEN_BLANK, blankToken, asEver),
	agentState("foreign", agentv1.Reason_REASON_TOKEN_FOREIGN, anotherStore, asEver),
	agentState("wrong PIN", agentv1.Reason_REASON_PIN_REJECTED, nothing, func(t *testing.T, spec *process.Spec) {
		pin := filepath.Join(t.TempDir(), "pin")
		if err := os.WriteFile(pin, []byte("000000\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		setFlag(spec, "--pin-file", pin)
	}),
	// Without what the agent's own state could mend it from.
	inNamespaces(agentState("corrupt", agentv1.Reason_REASON_CORRUPT, damageToken, func(t *testing.T, spec *process.Spec) {
		t.Helper()
		id, err := os.ReadFile(filepath.Join(hsm.StateDir(), "agent", "store-id"))
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "store-id"), id, 0o600); err != nil {
			t.Fatal(err)
		}
		setFlag(spec, "--state-dir", dir)
	})),
	{name: "agent killed", cause: "AGENT_UNREACHABLE", namespaces: true, enter: func(t *testing.T) func() {
		hsm.Agent.Kill()
		return func() { restartAgent(t) }
	}},
	{name: "agent stopped", cause: "AGENT_UNREACHABLE", namespaces: true, sent: true, enter: func(t *testing.T) func() {
		if err := hsm.Agent.Pause(); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := hsm.Agent.Resume(); err != nil {
				t.Fatal(err)
			}
		}
	}},
	networkState("cut in the handshake", condition{CutAfter: 500}),
	networkState("cut in a small answer", condition{CutAfter: 3_000}),
	networkState("cut in a large answer", condition{CutAfter: 20_000}),
	networkState("all packets lost", condition{Lost: true}),
	networkState("slow network", condition{Latency: 50 * time.Millisecond}),
}

// anotherStore makes the token one of another store.
func anotherStore(t *testing.T) {
	t.Helper()
	blankToken(t)
	startAgent(t, agentv1.Reason_REASON_UNSPECIFIED, func(spec *process.Spec) {
		setFlag(spec, "--state-dir", t.TempDir())
		spec.Args = append(spec.Args, "--provision")
	})
	hsm.Agent.Kill()
}

const (
	fullNamespace  = "states-full"
	emptyNamespace = "states-empty"
	// changedNamespace is where changes are tried, some with an unknown outcome.
	changedNamespace = "states-changed"
)

// TestUnavailable asks every kind of question in every state: nothing that may
// exist is ever absent, every failure is told in time and with its cause, and
// what does not depend on the token goes on.
func TestUnavailable(t *testing.T) {
	for _, name := range []string{fullNamespace, emptyNamespace, changedNamespace} {
		createNamespace(t, name)
	}
	for _, name := range present {
		secret := newSecret(name)
		secret.Data["large"] = []byte(strings.Repeat(name, 3_000))
		if _, err := secrets.HSMSecrets(fullNamespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	createSecret(t, changedNamespace, present[0])

	createSecret(t, changedNamespace, victim("before"))
	limit := answerWithin
	for _, a := range askAll(t, "before") {
		limit = max(limit, answerWithin+5*a.took)
	}
	t.Logf("an outage is to be told within %s", limit)
	var asked, false404 int
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) {
			id := s.id()
			empty, waiting := "empty-"+id, "waiting-"+id
			if s.namespaces {
				createNamespace(t, empty)
				createNamespace(t, waiting)
				createSecret(t, waiting, "db")
			}
			createSecret(t, changedNamespace, victim(id))

			restore := s.enter(t)
			var others sync.WaitGroup
			others.Go(func() { checkTheRest(t) })
			if s.namespaces {
				others.Go(func() { checkNamespaces(t, empty, waiting) })
			}
			answers := askAll(t, id)
			if !s.partly {
				checkRetryAfter(t)
			}
			others.Wait()
			restore()

			for _, a := range answers {
				asked++
				if a.untrue() {
					false404++
				}
				a.check(t, s, limit)
			}
			served(t)
			for _, a := range askAll(t, id+"-after") {
				if a.err != nil && !a.request.absent && !a.request.changes {
					t.Errorf("afterwards: %s: %v", a.request.name, a.err)
				}
			}
		})
	}
	for _, s := range states {
		if s.namespaces {
			finished(t, "waiting-"+s.id())
		}
	}
	fmt.Printf("figure: states-tested %d\n", len(states))
	fmt.Printf("figure: unavailable-requests %d\n", asked)
	fmt.Printf("figure: false-404 %d\n", false404)
}

// answer is what a request got.
type answer struct {
	request request
	err     error
	took    time.Duration
}

func askAll(t *testing.T, id string) []answer {
	t.Helper()
	answers := make([]answer, len(requests))
	var all sync.WaitGroup
	for i, r := range requests {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), await.Limit(time.Minute))
			defer cancel()
			began := time.Now()
			err := r.ask(ctx, id)
			answers[i] = answer{request: r, err: err, took: time.Since(began)}
		})
	}
	all.Wait()
	return answers
}

// untrue reports whether something was called absent that may exist.
func (a answer) untrue() bool {
	var partial partialError
	return asPartial(a.err, &partial) || apierrors.IsNotFound(a.err) && !a.request.absent
}

func (a answer) check(t *testing.T, s state, limit time.Duration) {
	t.Helper()
	name := a.request.name
	if a.took > limit {
		t.Errorf("%s: took %s, want at most %s", name, a.took, limit)
	}
	switch {
	case a.untrue():
		t.Errorf("%s: not true: %v", name, a.err)
	case a.err == nil:
		if !s.partly && !a.request.empty {
			t.Errorf("%s: succeeded, though nobody can know that", name)
		}
	case apierrors.IsNotFound(a.err):
		if !s.partly {
			t.Errorf("%s: %v, though nobody can know that", name, a.err)
		}
	case apierrors.IsServiceUnavailable(a.err):
		if cause := causeOf(a.err); cause == "" || s.cause != "" && s.cause != cause {
			t.Errorf("%s: cause %q, want %q: %v", name, cause, s.cause, a.err)
		}
	case apierrors.IsTimeout(a.err) && a.request.changes && s.sent:
		if !strings.Contains(a.err.Error(), "may or may not have been made") {
			t.Errorf("%s: does not tell that the outcome is unknown: %v", name, a.err)
		}
	default:
		t.Errorf("%s: %v (%s)", name, a.err, apierrors.ReasonForError(a.err))
	}
}

// checkRetryAfter looks for when to ask again, in the form that kubectl does not
// obey: it is to tell of the outage at once.
func checkRetryAfter(t *testing.T) {
	t.Helper()
	client, err := rest.HTTPClientFor(hsm.Admin)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hsm.URL+"/apis/hsm.j5t.io/v1alpha1/namespaces/"+fullNamespace+"/hsmsecrets", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	when, err := http.ParseTime(response.Header.Get("Retry-After"))
	if response.StatusCode != http.StatusServiceUnavailable || err != nil || when.Before(time.Now()) {
		t.Errorf("got %s with Retry-After %q, want 503 with a date to come", response.Status, response.Header.Get("Retry-After"))
	}
}

func causeOf(err error) string {
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return ""
	}
	return string(status.Status().Details.Causes[0].Type)
}

// checkTheRest asks what must never depend on a token or an agent.
func checkTheRest(t *testing.T) {
	for _, path := range []string{"/apis/hsm.j5t.io", "/apis/hsm.j5t.io/v1alpha1", "/openapi/v3/apis/hsm.j5t.io/v1alpha1", "/openapi/v2", "/readyz"} {
		if err := core.Discovery().RESTClient().Get().AbsPath(path).Do(t.Context()).Error(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	groups, lists, err := core.Discovery().ServerGroupsAndResources()
	if err != nil || len(groups) == 0 || !slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool { return l.GroupVersion == "hsm.j5t.io/v1alpha1" }) {
		t.Errorf("discovery: %v", err)
	}
	for _, path := range []string{"/readyz", "/livez", "/healthz"} {
		if err := hsm.APIServerAnswers(hsm.APIServerPort(), path)(t.Context()); err != nil {
			t.Errorf("our own %s: %v", path, err)
		}
	}
}

// checkNamespaces deletes one that holds nothing, which works at once, and one
// that holds an HSMSecret, which waits.
func checkNamespaces(t *testing.T, empty, waiting string) {
	for _, name := range []string{waiting, empty} {
		if err := core.CoreV1().Namespaces().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	if err := await.Poll(t.Context(), 20*time.Second, gone(empty)); err != nil {
		t.Errorf("namespace without HSMSecrets: %v", err)
	}
	if err := gone(waiting)(t.Context()); err == nil {
		t.Error("a namespace with an HSMSecret was deleted, though nobody can know that it is gone")
	}
}

func gone(namespace string) func(context.Context) error {
	return func(ctx context.Context) error {
		found, err := core.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("namespace %s is still there: %+v", namespace, found.Status)
		}
		return err
	}
}

// finished waits until a namespace that was deleted is gone, which it is soon
// after the token is back.
func finished(t *testing.T, namespace string) {
	t.Helper()
	if err := await.Poll(t.Context(), time.Minute, gone(namespace)); err != nil {
		t.Error(err)
	}
}
