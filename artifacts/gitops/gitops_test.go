// SPDX-License-Identifier: Apache-2.0

package gitops

import (
	"os"
	"testing"

	lua "github.com/yuin/gopher-lua"
)

// TestHealth runs the rule as Argo CD does: with obj, in the same interpreter.
func TestHealth(t *testing.T) {
	t.Parallel()
	rule, err := os.ReadFile("argocd/health.lua")
	if err != nil {
		t.Fatal(err)
	}
	condition := func(value, reason string) string {
		return `{metadata={generation=2},status={observedGeneration=2,conditions={{type="Ready",status="True",message="no"},{type="Synced",status="` + value + `",reason="` + reason + `",message="why"}}}}`
	}
	for name, c := range map[string]struct{ object, status, message string }{
		"new":                {`{metadata={generation=1}}`, "Progressing", "waiting for the controller"},
		"read only":          {`{metadata={generation=1},status={hsmPath="secrets/a/b"}}`, "Progressing", "waiting for the controller"},
		"without conditions": {`{metadata={generation=1},status={conditions={}}}`, "Progressing", "waiting for the controller"},
		"changed":            {`{metadata={generation=3},status={observedGeneration=2,conditions={{type="Synced",status="True",message="why"}}}}`, "Progressing", "waiting for the controller to see the last change"},
		"in sync":            {condition("True", "InSync"), "Healthy", "why"},
		"left alone":         {condition("False", "AutoSyncOff"), "Suspended", "why"},
		"finalizer":          {condition("False", "SecretTerminating"), "Progressing", "why"},
		"exists":             {condition("False", "SecretExists"), "Degraded", "why"},
		"unavailable":        {condition("False", "Unavailable"), "Degraded", "why"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state := lua.NewState()
			defer state.Close()
			if err := state.DoString("obj = " + c.object); err != nil {
				t.Fatal(err)
			}
			if err := state.DoString(string(rule)); err != nil {
				t.Fatal(err)
			}
			health, ok := state.Get(-1).(*lua.LTable)
			if !ok {
				t.Fatalf("the rule returns %v", state.Get(-1))
			}
			status, message := health.RawGetString("status").String(), health.RawGetString("message").String()
			if status != c.status || message != c.message {
				t.Errorf("it is %s, %q; want %s, %q", status, message, c.status, c.message)
			}
		})
	}
}
