// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/softhsm"
)

// TestBadInput gives the product what it must refuse: each time the error names
// what is wrong, and the store stays at its revision. It runs alone, for nothing
// else must write meanwhile.
func TestBadInput(t *testing.T) {
	u := admin(t)
	u.apply(db("db", "one"), "--server-side")
	u.apply("immutable: true"+db("fixed", "one"), "--server-side")
	editor := u
	editor.kubectl = hsm.Kubectl(newUser(t, "editor"))
	u.run("create", "role", "writer", "--verb=get,create,patch", "--resource=hsmsecrets.hsm.j5t.io")
	u.run("create", "rolebinding", "writer", "--role=writer", "--user=testbadinput-editor")
	other := u
	other.namespace = "testbadinput-other"
	other.run("create", "namespace", other.namespace)
	old := u.run("get", "hsmsecret", "db", "-o", "yaml")
	u.run("label", "hsmsecret", "db", "a=b")

	spec := func(name, line string) string {
		return "spec:\n  " + line + db(name, "one")
	}
	create := []string{"create", "-f", "-"}
	patch := func(name, json string) []string {
		return []string{"patch", "hsmsecret", name, "--type=merge", "-p=" + json}
	}
	inputs := []struct {
		name     string
		user     user
		manifest string
		args     []string
		says     []string
	}{
		{"values over 1 MiB", u, db("big", strings.Repeat("x", 1<<20+1)), create, []string{"data", "1048576"}},
		{"key with illegal characters", u, strings.Replace(db("new", "one"), "password", "pass word", 1), create, []string{"data[pass word]"}},
		{"path of another namespace", editor, spec("new", "hsmPath: secrets/other/new"), create, []string{"Forbidden", "spec.hsmPath", "claim"}},
		{"path that climbs", u, spec("new", "hsmPath: secrets/../etc"), create, []string{"spec.hsmPath"}},
		{"path in use", other, spec("new", "hsmPath: secrets/"+u.namespace+"/db"), create, []string{"spec.hsmPath", "secrets/" + u.namespace + "/db"}},
		{"path changed", u, "", patch("db", `{"spec":{"hsmPath":"secrets/`+u.namespace+`/elsewhere"}}`), []string{"spec.hsmPath", "immutable"}},
		{"type changed", u, "", patch("db", `{"spec":{"secretType":"example.com/other"}}`), []string{"spec.secretType", "immutable"}},
		{"immutable data changed", u, "", patch("fixed", `{"data":{"password":"dHdv"}}`), []string{"data", "immutable"}},
		{"immutable unset", u, "", patch("fixed", `{"immutable":false}`), []string{"immutable"}},
		{"type without its keys", u, spec("new", "secretType: kubernetes.io/tls"), create, []string{"data[tls.crt]", "data[tls.key]"}},
		{"interval too short", u, spec("new", "syncInterval: 9"), create, []string{"spec.syncInterval", "10"}},
		{"direction that is none", u, spec("new", "syncDirection: Sideways"), create, []string{"spec.syncDirection", "Bidirectional"}},
		{"Secret name that is none", u, spec("new", "secretName: Not_A_Name"), create, []string{"spec.secretName"}},
		{"unknown field", u, spec("new", "hsmpath: secrets/a/b"), create, []string{`unknown field "spec.hsmpath"`}},
		{"value that is not base64", u, strings.Replace(db("new", "one"), "b25l", `"?"`, 1), create, []string{"base64"}},
		{"old resourceVersion", u, strings.Replace(old, "b25l", "dHdv", 1), []string{"replace", "-f", "-"}, []string{"Conflict", "the object has been modified"}},
	}
	before := revision(t)
	for _, input := range inputs {
		t.Run(input.name, func(t *testing.T) {
			u := input.user
			u.T = t
			contains(t, u.with(input.manifest).fail(input.args...), input.says...)
			if after := revision(t); after != before {
				t.Errorf("something was written: the store moved from revision %d to %d", before, after)
			}
		})
	}

	guarded, err := softhsm.Create(t.TempDir(), "guarded", "648219")
	if err != nil {
		t.Fatal(err)
	}
	agents := []struct {
		name  string
		agent func(spec *process.Spec)
		says  []string
	}{
		{"missing module", func(spec *process.Spec) { spec.Args = append(spec.Args, "--pkcs11-module=/nowhere/module.so") }, []string{"/nowhere/module.so"}},
		{"no such token", func(spec *process.Spec) { spec.Args = append(spec.Args, "--token-serial=0000") }, []string{"0000", hsm.Token.Serial}},
		{"no such PIN file", func(spec *process.Spec) { spec.Args = append(spec.Args, "--pin-file=/nowhere/pin") }, []string{"/nowhere/pin"}},
		{"empty PIN file", func(spec *process.Spec) { spec.Args = append(spec.Args, "--pin-file="+file(t, "")) }, []string{"PIN", "empty"}},
		{"wrong PIN file", func(spec *process.Spec) {
			// A token of its own: it counts failed logins.
			spec.Env = guarded.Env
			spec.Args = append(spec.Args, "--token-serial="+guarded.Serial, "--pin-file="+file(t, "000000\n"))
		}, []string{"PIN", guarded.Serial}},
		{"store of another agent", func(*process.Spec) {}, []string{"--store-id"}},
	}
	for _, input := range agents {
		t.Run(input.name, func(t *testing.T) {
			contains(t, failingAgent(t, input.agent), input.says...)
			if after := revision(t); after != before {
				t.Errorf("something was written: the store moved from revision %d to %d", before, after)
			}
		})
	}
	t.Run("value over the token's limit", func(t *testing.T) {
		restartAgent(t, "--token-profile=pico")
		defer restartAgent(t)
		before := revision(t)
		u := u
		u.T = t
		contains(t, u.with(db("large", strings.Repeat("x", 100<<10))).fail("create", "-f", "-"), "RequestEntityTooLarge", "65536", "pico")
		if after := revision(t); after != before {
			t.Errorf("something was written: the store moved from revision %d to %d", before, after)
		}
	})
	if !t.Failed() {
		fmt.Printf("figure: bad-inputs-tested %d\n", len(inputs)+len(agents)+1)
	}
}

// restartAgent ends the agent and starts it with these flags more.
func restartAgent(t *testing.T, args ...string) {
	t.Helper()
	hsm.Agent.Kill()
	if err := hsm.StartAgent(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
}

// failingAgent starts a second agent of the token that is not to serve, and
// returns what it says of that: in its status, or as its last words.
func failingAgent(t *testing.T, change func(*process.Spec)) string {
	t.Helper()
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	spec, err := hsm.AgentSpec(t.Context(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), address, hsm.Token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	change(&spec)
	agent, err := process.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Kill()
	var said string
	await.NoError(t, 20*time.Second, func(context.Context) error {
		select {
		case <-agent.Done():
			if agent.ExitCode() == 0 {
				t.Fatal("the agent ended without an error")
			}
			log, err := os.ReadFile(spec.LogFile)
			said = string(log)
			return err
		default:
		}
		status, err := hsm.AgentStatus(t.Context(), address)
		if err != nil {
			return err
		}
		if status.GetMessage() == "" || strings.Contains(status.GetReason().String(), "LOADING") {
			return fmt.Errorf("status %v", status)
		}
		said = status.GetMessage()
		return nil
	})
	return said
}

// revision is that of the store.
func revision(t *testing.T) uint64 {
	t.Helper()
	status, err := hsm.AgentStatus(t.Context(), hsm.AgentAddress)
	if err != nil {
		t.Fatal(err)
	}
	return status.GetRevision()
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
