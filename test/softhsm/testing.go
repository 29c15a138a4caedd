// SPDX-License-Identifier: Apache-2.0

package softhsm

import (
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// New makes a token with a random PIN. It is removed when the test ends.
func New(t testing.TB) Token {
	t.Helper()
	pin := randomHex()[:8]
	return newToken(t, pin, pin)
}

// NewBlank makes a token that is formatted but has no user PIN, as a hardware
// token is sold. Its PIN is the one that it is to get.
func NewBlank(t testing.TB) Token {
	t.Helper()
	return newToken(t, randomHex()[:8], "")
}

func newToken(t testing.TB, pin, initialPIN string) Token {
	t.Helper()
	dir := tests.enter(t)
	library := CopyLibrary(t)
	token, err := create(dir, library, "hsm-test", initialPIN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Out of the way of other tests' modules first: they look into every
		// token, and leave lock files there.
		if err := os.Rename(token.Dir, filepath.Join(t.TempDir(), "removed")); err != nil {
			t.Error(err)
		}
	})
	if err := token.writePINFiles(t.TempDir(), pin); err != nil {
		t.Fatal(err)
	}
	return token
}

// CopyLibrary returns the path of a copy of SoftHSM's library, for another
// pkcs11.Module in this process that sees the same tokens.
func CopyLibrary(t testing.TB) string {
	t.Helper()
	path, err := Module()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(t.TempDir(), "libsofthsm2.so"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return to.Name()
}

// shared is the directory of all tokens of this test process. Its path stays
// the same while the process lives, because every later C_Initialize reads it
// from the environment; it exists while a test has a token in it.
type shared struct {
	mu    sync.Mutex
	dir   string
	users int
}

var tests shared

func (s *shared) enter(t testing.TB) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "softhsm-")
		if err != nil {
			t.Fatal(err)
		}
		s.dir = dir
	}
	s.users++
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.users--; s.users > 0 {
			return
		}
		if err := os.RemoveAll(s.dir); err != nil {
			t.Error(err)
		}
	})
	return s.dir
}
