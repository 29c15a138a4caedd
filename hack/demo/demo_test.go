// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/suite"
)

// firstOutputLimit is far more than the first line takes on a busy machine, and far less than a build.
const firstOutputLimit = 10 * time.Second

// TestDemo is what a newcomer does: make demo, once more, make down.
func TestDemo(t *testing.T) {
	dir := newDir(t)
	firstOutput, output, err := runMake(t, dir, "demo")
	if err != nil {
		t.Fatalf("make demo: %v\n%s", err, output)
	}
	fmt.Printf("figure: demo-first-output-ms %d\n", firstOutput.Milliseconds())
	if firstOutput > firstOutputLimit {
		t.Errorf("the first line came after %s", firstOutput)
	}
	checkWalk(t, output)
	if len(process.RunningWith(t, dir)) == 0 {
		t.Error("nothing runs: that nothing is left would prove nothing")
	}

	_, output, err = runMake(t, dir, "demo")
	if err != nil {
		t.Fatalf("make demo, the second time: %v\n%s", err, output)
	}
	if !strings.Contains(output, "A demo is running already") {
		t.Errorf("the second demo does not use what runs:\n%s", output)
	}
	checkWalk(t, output)

	down(t, dir, "The demo has ended")
	down(t, dir, "No demo is running.")
}

// TestFailure breaks etcd: the demo says what failed and where the logs are.
func TestFailure(t *testing.T) {
	dir, broken := newDir(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "etcd"), []byte("#!/bin/sh\necho no disk >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, output, err := runMake(t, dir, "demo", "KUBEBUILDER_ASSETS="+broken)
	if err == nil {
		t.Fatalf("it did not fail:\n%s", output)
	}
	logs := state{dir}.logDir()
	for _, want := range []string{"etcd: ended before it was ready", "no disk", "The demo failed while starting the cluster", "Logs are in " + logs} {
		if !strings.Contains(output, want) {
			t.Errorf("it does not say %q:\n%s", want, output)
		}
	}
	if _, err := os.Stat(filepath.Join(logs, "etcd.log")); err != nil {
		t.Error(err)
	}
	if left := process.RunningWith(t, dir); len(left) > 0 {
		t.Errorf("these are left running: %q", left)
	}
	down(t, dir, "No demo is running.")
}

// checkWalk wants the answers to the commands, in their order.
func checkWalk(t *testing.T, output string) {
	t.Helper()
	rest := output
	for _, want := range []string{
		"$ etcd --version", "etcd Version: 3.",
		"$ kubectl get hsmdevices,hsmpools", "1/1         Ready",
		"$ kubectl apply --server-side -f db.yaml", "serverside-applied",
		"$ kubectl get hsmsecrets", "db     db       InSync",
		"$ kubectl get secret db -o jsonpath", "\nswordfish\n",
		"$ demo read secrets/default/db", "swordfish",
		"kubectl edit secret db", "secret/db edited", "$ demo read secrets/default/db", "red-herrings",
		"kubectl edit hsmsecret db", "edited", "secret/db condition met", "PushedBack", "Updated",
		"$ grep --recursive", "(nothing found", "MODIFIED", "(Forbidden)",
		"(ServiceUnavailable)", "$ kubectl get secret db", "Opaque", "\nwhite-whales\n",
		"$ kubectl delete hsmsecret db", "(NotFound)",
		"Done.", "source ", "variables.sh", "make down",
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("there is no %q in its place:\n%s", want, output)
		}
		rest = after
	}
}

func down(t *testing.T, dir, want string) {
	t.Helper()
	_, output, err := runMake(t, dir, "down")
	if err != nil || !strings.Contains(output, want) {
		t.Errorf("make down says %q (%v), want %q", output, err, want)
	}
	if left := process.RunningWith(t, dir); len(left) > 0 {
		t.Errorf("these are left running: %q", left)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("files are left in %s: %v", dir, err)
	}
}

// newDir is a folder for a demo. If the test fails, its logs are kept beside it.
func newDir(t *testing.T) string {
	t.Helper()
	parent := suite.Dir(t)
	dir := filepath.Join(parent, "demo")
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		if err := os.CopyFS(filepath.Join(parent, "logs"), os.DirFS(state{dir}.logDir())); err != nil {
			t.Error(err)
		}
		if _, _, err := runMake(t, dir, "down"); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// runMake runs make in the checkout as a person does, and returns what it prints, and when it began to.
func runMake(t *testing.T, dir, target string, variables ...string) (firstOutput time.Duration, output string, err error) {
	t.Helper()
	cmd := exec.Command("make", "--no-print-directory", target)
	cmd.Dir = filepath.Join("..", "..")
	// The tests may be run by make.
	environment := slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, "MAKE") })
	cmd.Env = slices.Concat(environment, []string{dirVariable + "=" + dir}, variables)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(stdout)
	first, err := reader.ReadString('\n')
	if err != nil {
		t.Errorf("make %s printed %q: %v", target, first, err)
	}
	firstOutput = time.Since(began)
	rest, err := io.ReadAll(reader)
	if err != nil {
		t.Error(err)
	}
	return firstOutput, first + string(rest), cmd.Wait()
}
