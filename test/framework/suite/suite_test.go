// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		setUp error
		tests int
		want  int
		steps string
		kept  bool
	}{
		"tests pass":   {steps: "set up, tests, second cleanup, first cleanup"},
		"a test fails": {tests: 1, want: 1, steps: "set up, tests, second cleanup, first cleanup", kept: true},
		"no cluster":   {setUp: errors.New("etcd does not start"), want: 1, steps: "set up, second cleanup, first cleanup", kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var steps []string
			var dir string
			step := func(name string) func() { return func() { steps = append(steps, name) } }
			code := run(func() int { step("tests")(); return c.tests }, func(_ context.Context, s *Suite) error {
				step("set up")()
				dir = s.Dir
				s.Cleanup(step("first cleanup"))
				s.Cleanup(step("second cleanup"))
				return c.setUp
			})
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if code != c.want {
				t.Errorf("exit code %d, want %d", code, c.want)
			}
			if got := strings.Join(steps, ", "); got != c.steps {
				t.Errorf("steps: %s, want %s", got, c.steps)
			}
			if _, err := os.Stat(dir); (err == nil) != c.kept {
				t.Errorf("the folder is kept: %t, want %t", err == nil, c.kept)
			}
			if !strings.HasPrefix(filepath.Base(dir), "hsm-suite-") {
				t.Errorf("the folder %s does not name the suite", dir)
			}
		})
	}
}

func TestDir(t *testing.T) {
	t.Parallel()
	var dir string
	var order []string
	t.Run("a test that passes", func(t *testing.T) {
		dir = Dir(t)
		t.Cleanup(func() {
			if _, err := os.Stat(dir); err != nil {
				order = append(order, "the folder goes before a process may have ended")
			}
		})
	})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		order = append(order, "the folder stays")
	}
	if !slices.Equal(order, nil) {
		t.Error(order)
	}
}
