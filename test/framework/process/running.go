// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// RunningWith returns the command lines of the machine's processes that have a text in
// them, such as a folder or an address of the test.
func RunningWith(t testing.TB, text string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, file := range files {
		// A process that has ended meanwhile has no command line.
		content, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(content), text) {
			commands = append(commands, strings.ReplaceAll(string(content), "\x00", " "))
		}
	}
	return commands
}
