// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../../.."

// named are what docs/conformance.md names: a folder, a function, or a row.
var named = regexp.MustCompile("`((?:pkg|test)/[a-z0-9/]+)`|`((?:Test|Run)[A-Za-z]+)`|\"([^\"]+)\"")

// TestConformancePage finds every test that docs/conformance.md names.
func TestConformancePage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs", "conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for _, row := range table() {
		if rows[row.name] {
			t.Errorf("two rows have the name %q", row.name)
		}
		rows[row.name] = true
	}
	suite := source(t, "test/framework/storagesuite")
	found := 0
	for _, line := range strings.Split(string(page), "\n") {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		tests := ""
		for _, names := range named.FindAllStringSubmatch(line, -1) {
			folder, function, row := names[1], names[2], names[3]
			found++
			switch {
			case folder != "":
				tests = source(t, folder)
			case row != "" && !rows[row]:
				t.Errorf("there is no row %q", row)
			case strings.HasPrefix(function, "Run") && !strings.Contains(suite, `"`+function+`"`):
				t.Errorf("the storage suite does not run %s", function)
			case strings.HasPrefix(function, "Test") && !strings.Contains(tests, "func "+function+"("):
				t.Errorf("there is no %s in the folder named before it: %s", function, line)
			}
		}
	}
	if found == 0 {
		t.Error("the page names no test")
	}
}

// source is that of a folder's Go files, of which a test may be any.
func source(t *testing.T, folder string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
