// SPDX-License-Identifier: Apache-2.0

package process_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/process"
)

// orphanEnv makes this test binary start a child, print its process id, and wait to be killed.
const orphanEnv = "PROCESS_TEST_ORPHAN_LOG"

func TestMain(m *testing.M) {
	if log := os.Getenv(orphanEnv); log != "" {
		child, err := process.Start(context.Background(), shell(log, "exec sleep 600"))
		if err != nil {
			panic(err)
		}
		fmt.Println(child.PID())
		select {}
	}
	os.Exit(m.Run())
}

func TestChildEndsWithParent(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.CommandContext(t.Context(), self)
	parent.Env = append(os.Environ(), orphanEnv+"="+filepath.Join(t.TempDir(), "log"))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !running(pid) {
		t.Fatalf("child %d does not run", pid)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed, as it should be
	until(t, func() bool { return !running(pid) })
}

func TestStartWaitsUntilReady(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	marker := filepath.Join(dir, "ready")
	spec := shell(filepath.Join(dir, "log"), "sleep 0.2; touch "+marker+"; exec sleep 600")
	spec.Ready = func(context.Context) error {
		_, err := os.Stat(marker)
		return err
	}
	p, err := process.Start(withTimeout(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Errorf("started before it was ready: %v", err)
	}
	if err := p.Stop(withTimeout(t)); err != nil {
		t.Error(err)
	}
	if running(p.PID()) {
		t.Errorf("process %d still runs", p.PID())
	}
}

func TestStartShowsWhyItFailed(t *testing.T) {
	t.Parallel()
	notYet := func(context.Context) error { return errors.New("no answer") }
	for name, c := range map[string]struct {
		script  string
		timeout time.Duration
		want    []string
	}{
		"ends early": {"echo no such token; exit 3", time.Minute, []string{"ended before it was ready", "exit status 3", "no such token"}},
		"hangs":      {"echo connecting; exec sleep 600", 300 * time.Millisecond, []string{"not ready", "no answer", "connecting"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := shell(filepath.Join(t.TempDir(), "log"), c.script)
			spec.Ready = notYet
			ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
			defer cancel()
			_, err := process.Start(ctx, spec)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v does not say %q", err, want)
				}
			}
		})
	}
}

func TestStopKillsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	p := start(t, "trap '' TERM; echo ready; while :; do sleep 1; done")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if running(p.PID()) {
		t.Errorf("process %d still runs", p.PID())
	}
}

func TestStopReportsExitCode(t *testing.T) {
	t.Parallel()
	p := start(t, "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
	if err := p.Stop(withTimeout(t)); err == nil {
		t.Error("exit code 7 gives no error")
	}
	if code := p.ExitCode(); code != 7 {
		t.Errorf("exit code is %d", code)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	p := start(t, "echo ready; exec sleep 600")
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return state(p.PID()) == "T" })
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return state(p.PID()) == "S" })
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if running(p.PID()) {
		t.Errorf("a paused process %d survives Kill", p.PID())
	}
}

func shell(log, script string) process.Spec {
	return process.Spec{Name: "sh", Path: "/bin/sh", Args: []string{"-c", script}, LogFile: log}
}

// start returns when the script has printed a line, so that its traps are set.
func start(t *testing.T, script string) *process.Process {
	t.Helper()
	spec := shell(filepath.Join(t.TempDir(), "log"), script)
	spec.Ready = func(context.Context) error {
		content, err := os.ReadFile(spec.LogFile)
		if err == nil && len(content) == 0 {
			return errors.New("the log is empty")
		}
		return err
	}
	p, err := process.Start(withTimeout(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func withTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit(time.Minute))
	t.Cleanup(cancel)
	return ctx
}

// running is false for a zombie too: an orphan stays one where process 1 reaps nobody, as in some containers.
func running(pid int) bool { return state(pid) != "" && state(pid) != "Z" }

// state is the third field of /proc/PID/stat, or "" when there is no such process; the second is in parentheses.
func state(pid int) string {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(content), ") ")
	return rest[:1]
}

func TestFreePortIsGivenOnce(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for range 200 {
		port, err := process.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Errorf("port %d given twice", port)
		}
		seen[port] = true
	}
}

func until(t *testing.T, holds func() bool) {
	t.Helper()
	await.NoError(t, 30*time.Second, func(context.Context) error {
		if !holds() {
			return errors.New("it does not hold")
		}
		return nil
	})
}
