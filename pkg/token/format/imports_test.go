// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"go/build"
	"testing"
)

// TestImports: a workstation without PKCS#11 and cgo reads an image of a store.
func TestImports(t *testing.T) {
	t.Parallel()
	std := func(path string) bool {
		p, err := build.Import(path, "", build.FindOnly)
		return err == nil && p.Goroot
	}
	if std("j5t.io/hsm/pkg/token/format") || !std("crypto/hpke") {
		t.Fatal("what is of the standard library cannot be told")
	}
	p, err := build.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.CgoFiles) > 0 || len(p.Imports) == 0 {
		t.Errorf("cgo files %v, imports %v", p.CgoFiles, p.Imports)
	}
	for _, path := range p.Imports {
		if !std(path) || path == "C" {
			t.Errorf("it imports %s", path)
		}
	}
}
