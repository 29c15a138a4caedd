// SPDX-License-Identifier: Apache-2.0

package imports

import (
	"fmt"
	"slices"
	"strings"
)

const module = "j5t.io/hsm/"

// check returns one line for each import that a rule forbids. imports is what each
// package imports directly.
func check(imports map[string][]string) (violations []string) {
	for i, l := range layers {
		for _, used := range l.uses {
			if at := position(used); at < 0 || at >= i {
				violations = append(violations, fmt.Sprintf("layers.go: %s uses %s, which is not above it in the table", l.path, used))
			}
		}
	}
	for pkg, imported := range imports {
		path, ours := strings.CutPrefix(pkg, module)
		if !ours || !strings.HasPrefix(path, "cmd/") && !strings.HasPrefix(path, "pkg/") {
			continue // test and hack may import everything.
		}
		from := layerOf(path)
		if from == nil {
			violations = append(violations, path+": it has no layer; say in layers.go what it may import")
			continue
		}
		for _, name := range imported {
			if why := from.refuses(name); why != "" {
				violations = append(violations, fmt.Sprintf("%s imports %s: %s", path, name, why))
			}
		}
	}
	slices.Sort(violations)
	return violations
}

func position(path string) int {
	return slices.IndexFunc(layers, func(l layer) bool { return l.path == path })
}

// mayUse reports whether a layer may import another one.
func (l *layer) mayUse(other *layer) bool {
	return l.path == other.path || slices.Contains(l.uses, other.path) ||
		slices.Contains(everybody, other.path) && position(other.path) < position(l.path)
}

// layerOf returns the layer with the longest path that is, or holds, a package.
func layerOf(path string) (found *layer) {
	for i, l := range layers {
		if (path == l.path || strings.HasPrefix(path, l.path+"/")) && (found == nil || len(l.path) > len(found.path)) {
			found = &layers[i]
		}
	}
	return found
}

// refuses returns why a layer may not import a package; empty if it may.
func (l *layer) refuses(name string) string {
	if path, ours := strings.CutPrefix(name, module); ours {
		to := layerOf(path)
		switch {
		case to == nil:
			return "it has no layer"
		case !l.mayUse(to), slices.Contains(standardOnly, l.path):
			return "imports point downwards only, and layers.go does not let " + l.path + " use " + to.path
		}
		return ""
	}
	if first, _, _ := strings.Cut(name, "/"); strings.Contains(first, ".") && slices.Contains(standardOnly, l.path) {
		return "it needs the standard library only"
	}
	if name == "C" && l.path != "pkg/pkcs11" {
		return "only pkg/pkcs11 may need cgo"
	}
	for _, rule := range foreignRules {
		if !strings.HasPrefix(name, rule.prefix) {
			continue
		}
		if slices.Contains(rule.not, l.path) || rule.only != nil && !slices.Contains(rule.only, l.path) {
			return rule.why
		}
	}
	return ""
}
