// SPDX-License-Identifier: Apache-2.0

package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// TestImportsPointDown checks every package of this module.
func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	imports := list(t)
	for _, pkg := range []string{"cmd/agent", "cmd/apiserver", "cmd/controller", "cmd/discovery"} {
		if len(imports[module+pkg]) == 0 {
			t.Fatalf("%s is not among the %d packages that were checked", pkg, len(imports))
		}
	}
	for _, violation := range check(imports) {
		t.Error(violation)
	}
}

// list asks the go command what each package imports, tests left out.
func list(t *testing.T) map[string][]string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"...")
	var complaints bytes.Buffer
	command.Stderr = &complaints
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, &complaints)
	}
	imports := map[string][]string{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		switch err := decoder.Decode(&pkg); {
		case errors.Is(err, io.EOF):
			return imports
		case err != nil:
			t.Fatal(err)
		}
		imports[pkg.ImportPath] = pkg.Imports
	}
}

// TestViolationsAreFound breaks each rule once.
func TestViolationsAreFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ pkg, imports, want string }{
		"down":                     {"pkg/apiserver", module + "pkg/registry/hsm/hsmpool", ""},
		"within a layer":           {"pkg/registry/hsm/hsmpool", module + "pkg/registry/hsm/table", ""},
		"up":                       {"pkg/storage/hsm", module + "pkg/registry/hsm/hsmsecret", "imports point downwards only"},
		"up from a nested layer":   {"pkg/token/wal", module + "pkg/token", "imports point downwards only"},
		"across":                   {"pkg/controller/agents", module + "pkg/storage/hsm", "imports point downwards only"},
		"the agent itself":         {"pkg/storage/hsm", module + "pkg/agent", "imports point downwards only"},
		"a package without layer":  {"pkg/new", "fmt", "it has no layer"},
		"test code":                {"pkg/agent", module + "test/framework/await", "it has no layer"},
		"a module":                 {"pkg/token", "github.com/miekg/pkcs11", "only pkg/pkcs11 speaks"},
		"cgo":                      {"pkg/token", "C", "may need cgo"},
		"a cluster for the agent":  {"pkg/agent", "k8s.io/client-go/kubernetes", "knows no cluster"},
		"a library for the format": {"pkg/token/format", "golang.org/x/crypto/hkdf", "standard library only"},
		"the format's own needs":   {"pkg/token/format", "crypto/aes", ""},
		"test code is free":        {"test/framework/cluster", module + "pkg/agent", ""},
	} {
		got := strings.Join(check(map[string][]string{module + c.pkg: {c.imports}}), "; ")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %s imports %s: got %q, want %q", name, c.pkg, c.imports, got, c.want)
		}
	}
}
