// SPDX-License-Identifier: Apache-2.0

// Package image tests what the build of the agent's image does.
package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDisablePolkit: pcscd gets --disable-polkit where it knows the flag, and only there.
func TestDisablePolkit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ options, want string }{
		"built without polkit": {"foreground", "--foreground"},
		"built with polkit":    {"foreground disable-polkit", "--disable-polkit --foreground"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pcscd := filepath.Join(t.TempDir(), "pcscd")
			script := "#!/bin/sh\n# Options: " + test.options + "\necho \"$@\"\n"
			if err := os.WriteFile(pcscd, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			run(t, "./disable-polkit.sh", pcscd)
			if got := run(t, pcscd, "--foreground"); got != test.want {
				t.Errorf("pcscd is started with %q, want %q", got, test.want)
			}
		})
	}
}

func run(t *testing.T, command string, args ...string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), command, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, output)
	}
	return strings.TrimSpace(string(output))
}

// TestOpenSCLocksItsLogin: other clients of the reader are shut out, and nothing is set that was
// seen to break writes. OpenSC ignores what it does not know, so a word misspelt is seen here only.
func TestOpenSCLocksItsLogin(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("opensc.conf")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(regexp.MustCompile(`(?m)#.*$`).ReplaceAllString(string(content), "")), " ")
	if want := "app opensc-pkcs11 { pkcs11 { lock_login = true; } }"; text != want {
		t.Errorf("opensc.conf says %q, want %q", text, want)
	}
}
