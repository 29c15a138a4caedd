// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"j5t.io/hsm/pkg/agent"
	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/test/framework/agenttest"
	"j5t.io/hsm/test/framework/softhsm"
)

func commit(t *testing.T, a *agenttest.Agent, key string, expected uint64, data string) *agentv1.CommitResponse {
	t.Helper()
	out, err := a.Store().Commit(t.Context(), &agentv1.CommitRequest{Key: key, ExpectedRevision: expected, Change: &agentv1.CommitRequest_Put{
		Put: &agentv1.Put{Meta: []byte("meta"), Data: []byte(data)},
	}})
	if err != nil || !out.GetCommitted() {
		t.Fatalf("commit says %v, %v", out, err)
	}
	return out
}

func list(t *testing.T, a *agenttest.Agent) (records []*agentv1.Record, revision uint64) {
	t.Helper()
	stream, err := a.Store().List(t.Context(), &agentv1.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		out, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return records, revision
			}
			t.Fatal(err)
		}
		records = append(records, out.GetRecords()...)
		revision = out.GetEnd().GetRevision()
	}
}

func TestRestartKeepsRevisions(t *testing.T) {
	t.Parallel()
	a := agenttest.Start(t)
	for i := range 10 {
		commit(t, a, fmt.Sprint(i), 0, strings.Repeat("x", 100*i))
	}
	last := commit(t, a, "3", revisionOf(t, a, "3"), "changed").GetRevision()
	before, revision := list(t, a)
	if revision != last {
		t.Errorf("the list is as of %d, want %d", revision, last)
	}
	a.Restart()
	a.WaitReady()
	after, revision := list(t, a)
	if revision != last || len(after) != len(before) {
		t.Errorf("after the restart there are %d records as of %d, want %d as of %d", len(after), revision, len(before), last)
	}
	for i, r := range after {
		if r.String() != before[i].String() {
			t.Errorf("record %s is %v, was %v", r.GetKey(), r, before[i])
		}
	}
	if next := commit(t, a, "new", 0, ""); next.GetRevision() <= last {
		t.Errorf("revision %d after %d", next.GetRevision(), last)
	}
	// A watch from before the restart goes on, or is told that it cannot.
	for from, want := range map[uint64]agentv1.Reason{last: agentv1.Reason_REASON_UNSPECIFIED, last - 1: agentv1.Reason_REASON_EXPIRED} {
		stream, err := a.Store().Watch(t.Context(), &agentv1.WatchRequest{Revision: from})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); agentv1.ReasonOf(err) != want {
			t.Errorf("watch from %d: %v, want %s", from, err, want)
		}
	}
}

func revisionOf(t *testing.T, a *agenttest.Agent, key string) uint64 {
	t.Helper()
	out, err := a.Store().Get(t.Context(), &agentv1.GetRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return out.GetRecord().GetRevision()
}

func TestBlankTokenIsInitialisedOnRequest(t *testing.T) {
	t.Parallel()
	token := softhsm.NewBlank(t)
	soPIN, err := os.ReadFile(token.SOPINFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(token.SOPINFile); err != nil {
		t.Fatal(err)
	}
	a := agenttest.Prepare(t, token, func(o *agent.Options) { o.Provision, o.SOPINFile = false, token.SOPINFile })
	a.Restart()
	a.WaitReason(agentv1.Reason_REASON_TOKEN_UNINITIALIZED)
	a.Options.Provision = true
	a.Restart()
	a.WaitReason(agentv1.Reason_REASON_TOKEN_UNINITIALIZED)
	// As kubelet brings a Secret that is made later.
	if err := os.WriteFile(token.SOPINFile, soPIN, 0o400); err != nil {
		t.Fatal(err)
	}
	a.WaitReady()
	created := commit(t, a, "a", 0, "x")
	a.Options.Provision, a.Options.SOPINFile = false, ""
	a.Restart()
	a.WaitReady()
	if got := revisionOf(t, a, "a"); got != created.GetRevision() {
		t.Errorf("revision is %d, want %d", got, created.GetRevision())
	}
}

// A token with a user PIN is not formatted, whatever was asked for: its PIN stays,
// and what lies on it.
func TestTokenWithPINIsNotInitialised(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	if err := os.WriteFile(token.PINFile, []byte("731946\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := agenttest.Prepare(t, token, func(o *agent.Options) { o.SOPINFile = token.SOPINFile })
	a.Restart()
	a.WaitReason(agentv1.Reason_REASON_PIN_REJECTED)
	if err := os.WriteFile(token.PINFile, []byte(token.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.WaitReady()
}

// A token that lost its PIN since this agent has served it is not initialised: it
// was wiped, or is another one.
func TestWipedTokenIsNotInitialised(t *testing.T) {
	t.Parallel()
	token := softhsm.NewBlank(t)
	a := agenttest.Prepare(t, token, func(o *agent.Options) { o.SOPINFile = token.SOPINFile })
	if err := os.WriteFile(filepath.Join(a.Options.StateDir, "store-id"), []byte("00112233445566778899aabbccddeeff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.Restart()
	a.WaitReason(agentv1.Reason_REASON_TOKEN_BLANK)
}

func TestNoSuchToken(t *testing.T) {
	t.Parallel()
	a := agenttest.Prepare(t, softhsm.New(t), func(o *agent.Options) { o.Token.Serial = "0000" })
	a.Restart()
	a.WaitReason(agentv1.Reason_REASON_TOKEN_ABSENT)
	got, err := a.Store().Status(t.Context(), &agentv1.StatusRequest{})
	if err != nil || !strings.Contains(got.GetMessage(), `"0000"`) || !strings.Contains(got.GetMessage(), a.Token.Serial) {
		t.Errorf("message %q does not say which token is wanted and which is there (%v)", got.GetMessage(), err)
	}
}

// Three wrong PINs brick a token. One is sent, once, whatever happens.
func TestWrongPINIsSentOnce(t *testing.T) {
	t.Parallel()
	token := softhsm.New(t)
	a := agenttest.Prepare(t, token)
	write := func(pin string) {
		t.Helper()
		if err := os.WriteFile(token.PINFile, []byte(pin), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("000000\n")
	logins := uint64(0)
	for range 3 {
		a.Restart()
		a.WaitReason(agentv1.Reason_REASON_PIN_REJECTED)
		_, err := a.Store().Get(t.Context(), &agentv1.GetRequest{Key: "a"})
		if agentv1.ReasonOf(err) != agentv1.Reason_REASON_PIN_REJECTED || status.Code(err) != codes.Unavailable {
			t.Errorf("get says %v", err)
		}
		a.Stop()
		logins += a.Calls().Logins
	}
	fmt.Printf("figure: wrong-pin-logins %d\n", logins)
	if logins != 1 {
		t.Errorf("a wrong PIN was sent %d times", logins)
	}

	// Corrected while the agent runs.
	a.Restart()
	a.WaitReason(agentv1.Reason_REASON_PIN_REJECTED)
	write(token.PIN)
	a.WaitReady()
	if logins := a.Calls().Logins; logins != 1 {
		t.Errorf("the right PIN was sent %d times", logins)
	}
}
