// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
	"j5t.io/hsm/test/framework/process"
)

// binary is the real one, as it runs on a node.
type binary struct {
	*process.Process
	url string
}

// startDiscovery builds and starts it for the pod ours, with no other rights.
func startDiscovery(ctx context.Context, t *testing.T, c *cluster, tree sysfstest.Tree, args ...string) binary {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "discovery")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, output)
	}
	port, err := process.FreePort()
	must(t, err)
	address := "127.0.0.1:" + strconv.Itoa(port)
	b := binary{url: "http://" + address}
	b.Process, err = process.Start(ctx, process.Spec{
		Name: "discovery", Path: path, LogFile: filepath.Join(dir, "log"),
		Env: []string{"GOGC="}, // Its memory is measured.
		Args: append([]string{
			"--node-name=" + node, "--pod-name=" + ours, "--pod-namespace=" + namespace, "--kubeconfig=" + c.kubeconfig,
			"--sysfs-root=" + tree.Sys, "--dev-root=" + tree.Dev, "--listen-address=" + address, "--rescan-interval=1s", "-v=4",
		}, args...),
		Ready: func(ctx context.Context) error { _, err := get(ctx, b.url+"/healthz"); return err },
	})
	must(t, err)
	t.Cleanup(func() {
		b.Kill()
		if content, err := os.ReadFile(b.LogFile); t.Failed() && err == nil {
			t.Logf("log of discovery:\n%s", content)
		}
	})
	return b
}

// residentMiB is how much memory it has.
func (b binary) residentMiB(t *testing.T) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.PID()))
	must(t, err)
	rss := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if rss == nil {
		t.Fatalf("no VmRSS in %s", status)
	}
	kib, err := strconv.Atoi(string(rss[1]))
	must(t, err)
	return float64(kib) / 1024
}

// stop ends it as kubelet does, and looks for what it was not allowed to do.
func (b binary) stop(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := b.Stop(ctx); err != nil {
		t.Error(err)
	}
	if code := b.ExitCode(); code != 0 {
		t.Errorf("exit code %d on SIGTERM", code)
	}
	content, err := os.ReadFile(b.LogFile)
	must(t, err)
	if bytes.Contains(content, []byte("forbidden")) {
		t.Error("the manifests lack a right")
	}
}

// kubeletDir makes kubelet's folder, with another in it. Paths of sockets are short:
// t.TempDir has the name of the test in it.
func kubeletDir(t *testing.T, folder string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Mkdir(filepath.Join(dir, folder), 0o750))
	return dir
}
