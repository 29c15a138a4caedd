// SPDX-License-Identifier: Apache-2.0

package softhsm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// made counts the tokens of this test process.
var made atomic.Uint32

// New makes a token with a random PIN for the time of the test. Tests with
// tokens may run in parallel, each with as many tokens as it likes.
//
// SoftHSM has one configuration a process, named by an environment variable,
// and one state a loaded library. So the token comes with a copy of the library,
// which the loader takes for another one, and in which the name of the variable
// is replaced by another name of the same length.
func New(t testing.TB) Token {
	t.Helper()
	return newToken(t, true)
}

// NewBlank makes a token that is formatted but has no user PIN, as a hardware
// token is sold. Its PIN is the one that it is to get.
func NewBlank(t testing.TB) Token {
	t.Helper()
	return newToken(t, false)
}

func newToken(t testing.TB, withPIN bool) Token {
	t.Helper()
	variable := fmt.Sprintf("SOFTHSM2_%04d", made.Add(1))
	token := Token{Library: patchedLibrary(t, variable), Label: "hsm-test", PIN: randomHex()[:8]}
	if err := token.create(t.TempDir(), variable, withPIN); err != nil {
		t.Fatal(err)
	}
	return token
}

// CopyLibrary returns the path of another copy of the token's library, for
// another pkcs11.Module of this process on the same token. The two modules do
// not lock each other out, because SoftHSM's file locks are of the process: use
// one at a time.
func (t Token) CopyLibrary(tb testing.TB) string {
	tb.Helper()
	library, err := os.ReadFile(t.Library)
	if err != nil {
		tb.Fatal(err)
	}
	return writeLibrary(tb, library)
}

// patchedLibrary returns the path of a copy of SoftHSM's library that reads the
// path of its configuration from another environment variable.
func patchedLibrary(t testing.TB, variable string) string {
	t.Helper()
	path, err := Module()
	if err != nil {
		t.Fatal(err)
	}
	library, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(variable) != len(confVariable) || bytes.Count(library, []byte(confVariable)) != 1 {
		t.Fatalf("cannot replace %s by %s in %s", confVariable, variable, path)
	}
	return writeLibrary(t, bytes.Replace(library, []byte(confVariable), []byte(variable), 1))
}

func writeLibrary(t testing.TB, library []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "libsofthsm2.so")
	if err := os.WriteFile(path, library, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
