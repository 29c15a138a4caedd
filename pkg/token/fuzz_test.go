// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFuzzTargets counts the fuzz targets of the whole module, and that each
// decoder here has one.
func TestFuzzTargets(t *testing.T) {
	t.Parallel()
	target := regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]+)\(f \*testing\.F\)`)
	found := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		for _, match := range target.FindAllSubmatch(content, -1) {
			found[filepath.Dir(path)+" "+string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("figure: fuzz-targets %d\n", len(found))
	for _, name := range []string{
		"pkg/token/format FuzzSegment", "pkg/token/format FuzzPayload", "pkg/token/format FuzzKeyring",
		"pkg/token/wal FuzzLog", "pkg/token/wal FuzzReplay", "pkg/token FuzzLegacy",
	} {
		if !found["../../"+name] {
			t.Errorf("there is no %s", name)
		}
	}
}

func FuzzLegacy(f *testing.F) {
	f.Add("app/password\napp/_metadata\nsingle\nsecrets/default/one\nsecrets/default/one/_metadata")
	f.Add("/\n//\n_metadata\n/_metadata")
	f.Fuzz(func(t *testing.T, lines string) {
		labels := strings.Split(lines, "\n")
		keys := 0
		for _, l := range parseLegacy(labels) {
			keys += len(l.Keys)
			for _, key := range l.Keys {
				if !strings.Contains(lines, l.Name+"/"+key) && (key != legacyKey || !strings.Contains(lines, l.Name)) {
					t.Fatalf("%q gave %q, key %q", lines, l.Name, key)
				}
			}
		}
		for _, label := range labels {
			if strings.HasSuffix(label, "/"+legacyMetadata) {
				keys++
			}
		}
		if keys != len(labels) {
			t.Fatalf("%d labels gave %d objects", len(labels), keys)
		}
	})
}
