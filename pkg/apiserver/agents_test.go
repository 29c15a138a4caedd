// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/storage/hsm"
)

// TestAgentStates is well while one agent serves, and tells of all.
func TestAgentStates(t *testing.T) {
	t.Parallel()
	serves := hsm.AgentState{Agent: hsm.Agent{Address: "a:1", Serial: "S1"}}
	silent := hsm.AgentState{Agent: hsm.Agent{Address: "b:1"}, Err: errors.New("it does not answer")}
	for _, c := range []struct {
		states []hsm.AgentState
		err    error
		code   int
		text   string
	}{
		{[]hsm.AgentState{serves, silent}, nil, http.StatusOK, "[+]agent a:1 of token S1: serves the store\n[-]agent b:1: it does not answer\n"},
		{[]hsm.AgentState{silent}, nil, http.StatusServiceUnavailable, "[-]agent b:1: it does not answer\n"},
		{nil, errors.New("no HSMPool has an agent"), http.StatusServiceUnavailable, "[-]agents: no HSMPool has an agent\n"},
	} {
		w := httptest.NewRecorder()
		agentStates(func(context.Context) ([]hsm.AgentState, error) { return c.states, c.err }).
			ServeHTTP(w, httptest.NewRequest(http.MethodGet, agentsPath, http.NoBody))
		if w.Code != c.code || w.Body.String() != c.text {
			t.Errorf("%d %q, want %d %q", w.Code, w.Body.String(), c.code, c.text)
		}
	}
}

func TestAgentsOfPools(t *testing.T) {
	t.Parallel()
	member := func(serial, endpoint string) v1alpha1.PoolMember {
		return v1alpha1.PoolMember{SerialNumber: serial, AgentEndpoint: endpoint}
	}
	pool := func(phase v1alpha1.PoolPhase, members ...v1alpha1.PoolMember) *v1alpha1.HSMPool {
		return &v1alpha1.HSMPool{Status: v1alpha1.HSMPoolStatus{Phase: phase, Members: members}}
	}
	got := agentsOf([]*v1alpha1.HSMPool{
		pool(v1alpha1.PoolPhaseError, member("S2", "10.0.0.2:9443"), member("S3", "")),
		pool(v1alpha1.PoolPhaseReady, member("S1", "10.0.0.1:9443"), member("S2", "10.0.0.2:9443")),
		pool(v1alpha1.PoolPhasePending),
	}, "hsm-system")
	if len(got) != 2 || got[0].Serial != "S1" || got[1].Address != "10.0.0.2:9443" {
		t.Errorf("got %v", got)
	}
	for _, agent := range got {
		if !strings.HasPrefix(agent.ServerName, "hsm-agent-"+strings.ToLower(agent.Serial)+"-") || !strings.HasSuffix(agent.ServerName, ".hsm-system.svc") {
			t.Errorf("the agent of %s has to be called %s", agent.Serial, agent.ServerName)
		}
	}
	if none := agentsOf(nil, "hsm-system"); !reflect.DeepEqual(none, []hsm.Agent{}) {
		t.Errorf("without pools: %#v", none)
	}
}

func TestAgentFlag(t *testing.T) {
	t.Parallel()
	for address, valid := range map[string]bool{"": true, "pico:9443": true, "pico": false, "a:b:1": false} {
		o := NewOptions()
		if address != "" {
			o.AgentAddresses = []string{address}
		}
		err := o.Validate()
		if refused := err != nil && strings.Contains(err.Error(), "--agent "); refused == valid {
			t.Errorf("--agent=%s: %v", address, err)
		}
	}
}
