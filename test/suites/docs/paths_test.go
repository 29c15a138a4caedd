// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// named is a path of the repository on a page, which may be a pattern, and names that
// follow it in parentheses and have to be declared in that file: `pkg/a/b.go` (`name`,
// `other`).
var (
	named = regexp.MustCompile("`((?:cmd|pkg|test|hack|docs|artifacts|\\.ci|\\.github)/[^` ]*)`(?:\\s+\\(((?:`[^`]+`(?:,\\s+)?)+)\\))?")
	name  = regexp.MustCompile("`([^`]+)`")
)

// TestPaths finds each path of the pages, and in it the declaration of each name that is
// given with it.
func TestPaths(t *testing.T) {
	t.Parallel()
	paths, symbols := 0, 0
	for _, p := range pages(t) {
		for _, match := range named.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			path := strings.TrimSuffix(match[1], "/")
			if strings.Contains(path, "<") {
				continue // It stands for many.
			}
			paths++
			if !exists(path) {
				t.Errorf("%s: %s does not exist", p.path, path)
				continue
			}
			for _, symbol := range name.FindAllStringSubmatch(match[2], -1) {
				symbols++
				if !slices.Contains(declared(t, path), symbol[1]) {
					t.Errorf("%s: %s declares no %q", p.path, path, symbol[1])
				}
			}
		}
	}
	if paths == 0 || symbols == 0 {
		t.Errorf("the pages have %d paths and %d names with them", paths, symbols)
	}
}

// TestDeclared keeps a name that is only used, or only written about, from counting.
func TestDeclared(t *testing.T) {
	t.Parallel()
	found := declared(t, "pkg/token/commit.go")
	for _, want := range []string{"Commit", "maxSuperseded", "commitState", "unresolved", "pendingCommit", "segments"} {
		if !slices.Contains(found, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, unwanted := range []string{"errorf", "TooLarge", "durable"} {
		if slices.Contains(found, unwanted) {
			t.Errorf("%s is not declared there", unwanted)
		}
	}
}

var protobuf = regexp.MustCompile(`(?m)^\s*(?:message|enum|service|rpc)\s+(\w+)`)

// declared returns the names that a file of Go or protobuf declares at its top: functions,
// methods, types with their fields and methods, constants and variables.
func declared(t *testing.T, path string) []string {
	t.Helper()
	var names []string
	if strings.HasSuffix(path, ".proto") {
		for _, match := range protobuf.FindAllStringSubmatch(read(t, path), -1) {
			names = append(names, match[1])
		}
		return names
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, read(t, path), parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.FuncDecl:
			names = append(names, node.Name.Name)
			return false // What it declares is its own.
		case *ast.FuncLit:
			return false
		case *ast.TypeSpec:
			names = append(names, node.Name.Name)
		case *ast.ValueSpec:
			for _, ident := range node.Names {
				names = append(names, ident.Name)
			}
		case *ast.Field:
			for _, ident := range node.Names {
				names = append(names, ident.Name)
			}
		}
		return true
	})
	return names
}
