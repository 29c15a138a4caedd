// SPDX-License-Identifier: Apache-2.0

// Package suite starts what tests run against and takes it down again: one cluster
// for all tests of a package (Main), or one for a single test (StartCluster,
// StartControlPlane). It owns the folder that the processes write to, and keeps it
// when a test fails. It never says what is tested.
package suite

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/controlplane"
)

// startLimit bounds the start of a cluster. It includes builds of the binaries, with the
// race detector too, on a machine that has little time for them.
const startLimit = time.Hour

// Suite is a package of tests that share one cluster.
type Suite struct {
	// Dir takes all that is written. It is kept if a test fails.
	Dir      string
	cleanups []func()
}

// Main runs the tests of a package between setUp and the cleanups, and ends the
// process. TestMain calls it and nothing else.
func Main(m *testing.M, setUp func(context.Context, *Suite) error) {
	if !flag.Parsed() {
		flag.Parse()
	}
	os.Exit(run(m.Run, setUp))
}

func run(tests func() int, setUp func(context.Context, *Suite) error) int {
	dir, err := makeDir("hsm-" + packageName() + "-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s := &Suite{Dir: dir}
	code := 1
	defer func() { release(dir, code != 0, func(kept string) { fmt.Fprintln(os.Stderr, kept) }) }()
	defer s.cleanUp()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	if err := setUp(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return code
	}
	code = tests()
	return code
}

// Cleanup has f called after the last test, or when setUp fails. What was added last
// is called first.
func (s *Suite) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *Suite) cleanUp() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}

// StartCluster starts the product, and stops it after the last test. It writes to Dir.
func (s *Suite) StartCluster(ctx context.Context, o cluster.Options) (*cluster.Cluster, error) {
	o.Dir, o.Progress = s.Dir, os.Stderr
	c, err := cluster.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	s.Cleanup(c.Stop)
	return c, nil
}

// StartCluster starts the product for one test.
func StartCluster(t testing.TB, o cluster.Options) *cluster.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	o.Dir, o.Progress = Dir(t), os.Stderr
	c, err := cluster.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// StartControlPlane starts a control plane, without the product, for one test.
func StartControlPlane(t testing.TB, o controlplane.Options) *controlplane.ControlPlane {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	o.Dir, o.Progress = Dir(t), os.Stderr
	c, err := controlplane.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// Dir makes a folder for a test. It goes after all cleanups that the test adds later,
// and stays if the test fails. Its path is short: sockets may lie in it.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := makeDir("hsm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { release(dir, t.Failed(), func(kept string) { t.Log(kept) }) })
	return dir
}

func makeDir(prefix string) (string, error) { return os.MkdirTemp("", prefix) }

// release removes a folder, or says where it is if it is to be kept.
func release(dir string, keep bool, say func(string)) {
	if keep {
		say("What the processes wrote is kept: " + dir)
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		say(err.Error())
	}
}

// packageName is that of the folder of the tests, in which go test runs them.
func packageName() string {
	dir, err := os.Getwd()
	if err != nil {
		return "tests"
	}
	return filepath.Base(dir)
}
