// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"j5t.io/hsm/pkg/storage/hsm"
)

// TestAgentStates is well while one agent serves, and tells of all.
func TestAgentStates(t *testing.T) {
	t.Parallel()
	serves := hsm.AgentState{Address: "a:1", Serial: "S1"}
	silent := hsm.AgentState{Address: "b:1", Err: errors.New("it does not answer")}
	for _, c := range []struct {
		states []hsm.AgentState
		code   int
		text   string
	}{
		{[]hsm.AgentState{serves, silent}, http.StatusOK, "[+]a:1: serves the store on token S1\n[-]b:1: it does not answer\n"},
		{[]hsm.AgentState{silent}, http.StatusServiceUnavailable, "[-]b:1: it does not answer\n"},
	} {
		w := httptest.NewRecorder()
		agentStates(func(context.Context) []hsm.AgentState { return c.states }).
			ServeHTTP(w, httptest.NewRequest(http.MethodGet, agentsPath, http.NoBody))
		if w.Code != c.code || w.Body.String() != c.text {
			t.Errorf("%d %q, want %d %q", w.Code, w.Body.String(), c.code, c.text)
		}
	}
}
