// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

const root = "../../.."

// TestRows: each row breaks what is there, and names a test that is there.
func TestRows(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		if n := strings.Count(read(t, filepath.Join(root, m.file)), m.old); n != 1 || m.old == m.new {
			t.Errorf("%s: what is to be broken is in %s %d times: %q", m.name, m.file, n, m.old)
		}
		files, err := filepath.Glob(filepath.Join(root, m.pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, file := range files {
			found += strings.Count(read(t, file), "\nfunc "+m.test+"(t *testing.T) {")
		}
		if found != 1 {
			t.Errorf("%s: package %s has %d tests %s", m.name, m.pkg, found, m.test)
		}
	}
}

// TestMutants breaks the code as each row says, and runs the test of the row, which has to
// fail. With -short it tries the cheap ones.
func TestMutants(t *testing.T) {
	t.Parallel()
	var killed atomic.Int32
	t.Run("each", func(t *testing.T) {
		for _, m := range mutants {
			if testing.Short() && !m.cheap {
				continue
			}
			t.Run(m.name, func(t *testing.T) {
				if out, err := m.run(t, ""); err != nil {
					t.Fatalf("%s fails before anything is broken: %v\n%s", m.test, err, out)
				}
				out, err := m.run(t, m.overlay(t))
				switch {
				case err == nil:
					t.Errorf("%s does not notice", m.test)
				case !strings.Contains(out, "--- FAIL: "+m.test):
					t.Errorf("%s did not run: %v\n%s", m.test, err, out)
				default:
					killed.Add(1)
				}
			})
		}
	})
	if !testing.Short() {
		fmt.Printf("figure: mutations-killed %d\n", killed.Load())
	}
}

// overlay makes the file that tells the go command of the broken code.
func (m mutant) overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	whole, err := filepath.Abs(filepath.Join(root, m.file))
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, filepath.Base(m.file))
	write(t, broken, []byte(strings.Replace(read(t, whole), m.old, m.new, 1)))
	content, err := json.Marshal(map[string]map[string]string{"Replace": {whole: broken}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	write(t, overlay, content)
	return overlay
}

// run runs the test of a row, with an overlay unless that is empty.
func (m mutant) run(t *testing.T, overlay string) (out string, err error) {
	t.Helper()
	args := []string{"test", "-short", "-failfast", fmt.Sprintf("-count=%d", max(m.tries, 1)), "-run=^" + m.test + "$"}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	command := exec.CommandContext(t.Context(), "go", append(args, m.pkg)...)
	command.Dir = root
	b, err := command.CombinedOutput()
	return string(b), err
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
