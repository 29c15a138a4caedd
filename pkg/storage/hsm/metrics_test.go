// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/testutil"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/hsm"
)

// calls counts the observed calls of a method with a reason.
func calls(t *testing.T, method, reason string) uint64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "hsm_agent_call_duration_seconds" {
			continue
		}
		for _, metric := range family.GetMetric() {
			if testutil.LabelsMatch(metric, map[string]string{"method": method, "reason": reason}) {
				return metric.GetHistogram().GetSampleCount()
			}
		}
	}
	return 0
}

// TestCallsAreMeasured counts each call once, by why it failed. It is alone:
// the metrics are those of the process.
func TestCallsAreMeasured(t *testing.T) {
	a := newAuthority(t)
	d := answering("store", "/k")
	ok, failures := d.get, make(chan error, 1)
	d.get = func(ctx context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
		if err := <-failures; err != nil {
			return nil, err
		}
		return ok(ctx, in)
	}
	address, stop := a.serve(d, "127.0.0.1:0")
	client := a.connect(address)
	for _, c := range []struct {
		reason string
		err    error
	}{
		{"OK", nil},
		{"TOKEN_ABSENT", agentv1.NewError(codes.Unavailable, agentv1.Reason_REASON_TOKEN_ABSENT, "pulled")},
		{"FUTURE_REVISION", agentv1.NewError(codes.OutOfRange, agentv1.Reason_REASON_FUTURE_REVISION, "later")},
		{"RequestEntityTooLarge", agentv1.NewError(codes.InvalidArgument, agentv1.Reason_REASON_TOO_LARGE, "large")},
		{"InternalError", errors.New("broken")},
		{"AGENT_UNREACHABLE", nil},
	} {
		if c.reason == "AGENT_UNREACHABLE" {
			stop()
		} else {
			failures <- c.err
		}
		before := calls(t, "Get", c.reason)
		_, err := client.Get(t.Context(), getKey)
		if (err == nil) != (c.reason == "OK") {
			t.Errorf("%s: %v", c.reason, err)
		}
		if got := calls(t, "Get", c.reason) - before; got != 1 {
			t.Errorf("%s: counted %d times", c.reason, got)
		}
	}
}

// TestConnectionIsShown shows the one agent that serves.
func TestConnectionIsShown(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	address, stop := a.serve(answering("store", "/k"), "127.0.0.1:0")
	client := a.connect()
	client.SetAgents([]hsm.Agent{{Address: "127.0.0.1:1"}, {Address: address, Serial: "S1"}})
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(client.Collector())
	shown := func(connected string) {
		t.Helper()
		want := "# HELP hsm_agent_connected [ALPHA] 1 for the agent that this server has a connection to, 0 for the others. A server connects when a request needs it.\n" +
			"# TYPE hsm_agent_connected gauge\n" +
			"hsm_agent_connected{address=\"127.0.0.1:1\",serial=\"\"} 0\n" +
			"hsm_agent_connected{address=\"" + address + "\",serial=\"S1\"} " + connected + "\n"
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	}
	shown("0")
	mustGet(t, client, "/k")
	shown("1")
	stop()
	if _, err := client.Get(t.Context(), getKey); err == nil {
		t.Fatal("a stopped agent answers")
	}
	shown("0")
	client.SetAgents(agentsAt())
	if err := testutil.GatherAndCompare(registry, strings.NewReader("")); err != nil {
		t.Errorf("an agent that is gone has left a series behind: %v", err)
	}
}

// TestCheck asks every agent, and changes nothing by it.
func TestCheck(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	absent := answering("", "/k")
	absent.status.Reason, absent.status.Message = agentv1.Reason_REASON_TOKEN_ABSENT, "plug it in"
	serves, _ := a.serve(answering("store-2", "/k"), "127.0.0.1:0")
	waits, _ := a.serve(absent, "127.0.0.1:0")
	other, _ := a.serve(answering("store-1", "/other"), "127.0.0.1:0")
	client := a.connect(serves, waits, "127.0.0.1:1")

	states, err := client.Check(t.Context())
	if err != nil || len(states) != 3 || states[0].Err != nil || states[0].Address != serves {
		t.Errorf("states %v", states)
	}
	for i, part := range map[int]string{1: "plug it in", 2: "127.0.0.1:1"} {
		if err := states[i].Err; err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: want %q, got %v", states[i].Address, part, err)
		}
	}
	// To be asked does not bind a cluster to a store; to be used does.
	cluster := newCluster()
	asked := a.connectIn(cluster, waits, other)
	if _, err := asked.Check(t.Context()); err != nil {
		t.Error(err)
	}
	mustGet(t, asked, "/other")
	states, err = a.connectIn(cluster, serves).Check(t.Context())
	if err != nil || !apierrors.HasStatusCause(states[0].Err, "TOKEN_FOREIGN") {
		t.Errorf("the agent of another store: %v, %v", states, err)
	}
	if _, err := a.connectIn(cluster).Check(t.Context()); !apierrors.HasStatusCause(err, hsm.CauseNoAgent) {
		t.Errorf("no agent: %v", err)
	}
}
