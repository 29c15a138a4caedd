// SPDX-License-Identifier: Apache-2.0

// Package docs tests that the pages tell of things that exist: links, files, names in
// files, packages, targets of make, tests and figures. It reads only, and starts nothing.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const root = "../../.."

// page is a Markdown file, by its path in the repository.
type page struct{ path, text string }

func pages(t *testing.T) []page {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no page in docs: %v", err)
	}
	var all []page
	for _, path := range append(paths, filepath.Join(root, "README.md"), filepath.Join(root, testPage)) {
		path, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page{path, read(t, path)})
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func exists(pattern string) bool {
	found, err := filepath.Glob(filepath.Join(root, pattern))
	return err == nil && len(found) > 0
}

var (
	link    = regexp.MustCompile(`\]\(([^)]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	fence   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
)

// TestLinks follows each link of a page that stays in the repository.
func TestLinks(t *testing.T) {
	t.Parallel()
	found := 0
	for _, p := range pages(t) {
		for _, match := range link.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			found++
			path := p.path
			if target != "" {
				path = filepath.Join(filepath.Dir(p.path), target)
			}
			switch {
			case !exists(path):
				t.Errorf("%s: %s does not exist", p.path, match[1])
			case anchor != "" && !slices.Contains(anchors(read(t, path)), anchor):
				t.Errorf("%s: %s has no heading #%s", p.path, path, anchor)
			}
		}
	}
	if found == 0 {
		t.Error("no page has a link")
	}
}

// anchors are those that GitHub gives to the headings of a page.
func anchors(text string) []string {
	var all []string
	for _, match := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, match[1]))
	}
	return all
}

// TestIndex finds every page in docs/README.md.
func TestIndex(t *testing.T) {
	t.Parallel()
	index := read(t, "docs/README.md")
	for _, p := range pages(t) {
		if name := filepath.Base(p.path); name != "README.md" && !strings.Contains(index, "("+name+")") {
			t.Errorf("docs/README.md does not list %s", name)
		}
	}
}

const (
	developmentPage = "docs/development.md"
	testPage        = "test/README.md"
)

// notOnTheMap are folders whose packages are explained with the one above them.
var notOnTheMap = []string{"pkg/generated", "pkg/apis/hsm", "pkg/registry/hsm", "pkg/discovery", "test/framework/controlplane"}

// TestMap finds every package on the map of docs/development.md, or, if it is of tests,
// in test/README.md.
func TestMap(t *testing.T) {
	t.Parallel()
	development, tests := read(t, developmentPage), read(t, testPage)
	onMap := func(path string) bool {
		return strings.Contains(development, "`"+path+"`") || strings.Contains(tests, "("+strings.TrimPrefix(path, "test/")+")")
	}
	for _, top := range []string{"cmd", "pkg", "test"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return err
			}
			path, err = filepath.Rel(root, path)
			if err != nil {
				return err
			}
			covered := slices.ContainsFunc(notOnTheMap, func(folder string) bool { return strings.HasPrefix(path, folder+"/") })
			if !covered && exists(filepath.Join(path, "*.go")) && !onMap(path) {
				t.Errorf("%s is not on the map", path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

var (
	makeTarget = regexp.MustCompile("(?m)(?:^(?:    )?|`)make ([a-z]+)")
	goTest     = regexp.MustCompile("go test [^`\n]*")
	testName   = regexp.MustCompile(`-run[ =]'?\^?(Test[A-Za-z]+)`)
	testFolder = regexp.MustCompile(` \./([a-z0-9/]+)`)
)

// TestCommands finds each target of make on the pages, and each test that a page runs.
func TestCommands(t *testing.T) {
	t.Parallel()
	makefile := read(t, "Makefile")
	targets, tests := 0, 0
	for _, p := range pages(t) {
		for _, match := range makeTarget.FindAllStringSubmatch(p.text, -1) {
			targets++
			if !strings.Contains(makefile, "\n"+match[1]+":") {
				t.Errorf("%s: there is no make %s", p.path, match[1])
			}
		}
		for _, command := range goTest.FindAllString(p.text, -1) {
			test, folder := testName.FindStringSubmatch(command), testFolder.FindStringSubmatch(command)
			if test == nil || folder == nil {
				continue
			}
			tests++
			if !grep(t, folder[1], "_test.go", "func "+test[1]+"(") {
				t.Errorf("%s: there is no %s in %s", p.path, test[1], folder[1])
			}
		}
	}
	if targets == 0 || tests == 0 {
		t.Errorf("the pages have %d targets of make and %d commands that run a test", targets, tests)
	}
}

// TestFigures finds each figure of docs/figures.md in a test that prints it.
func TestFigures(t *testing.T) {
	t.Parallel()
	text, _, _ := strings.Cut(read(t, "docs/figures.md"), "## `make bench`")
	found := 0
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || strings.Contains(cells[1], "---") || strings.TrimSpace(cells[1]) == "figure" {
			continue
		}
		for _, figure := range strings.Split(cells[1], ",") {
			found++
			if figure = strings.TrimSpace(figure); !slices.ContainsFunc([]string{"artifacts", "cmd", "pkg", "test"}, func(folder string) bool {
				return grep(t, folder, "_test.go", "figure: "+figure+" ")
			}) {
				t.Errorf("no test prints the figure %s", figure)
			}
		}
	}
	if found == 0 {
		t.Error("the page has no figure")
	}
}

// grep reports whether a file below a folder, whose name ends so, has a text.
func grep(t *testing.T, folder, end, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, end) {
			return err
		}
		content, err := os.ReadFile(path)
		if found = found || strings.Contains(string(content), text); found {
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
