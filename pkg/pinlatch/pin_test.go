// SPDX-License-Identifier: Apache-2.0

package pinlatch_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/pinlatch"
)

func TestReadPIN(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, content string
		mode          os.FileMode
		want, err     string
	}{
		{"plain", "648219", 0o600, "648219", ""},
		{"newline", "648219\n", 0o600, "648219", ""},
		{"carriage return and newline", "648219\r\n", 0o400, "648219", ""},
		{"read by others, as a mounted Secret", "648219", 0o644, "648219", ""},
		{"blanks are part of it", " 64 82 ", 0o600, " 64 82 ", ""},
		{"not ASCII", "päss", 0o600, "päss", ""},
		{"longest", strings.Repeat("9", 64), 0o600, strings.Repeat("9", 64), ""},
		{"too long", strings.Repeat("9", 65), 0o600, "", "more than 64 bytes"},
		{"empty", "", 0o600, "", "is empty"},
		{"only a newline", "\n", 0o600, "", "is empty"},
		{"two newlines", "648219\n\n", 0o600, "", "more than one line"},
		{"two lines", "648219\n648220\n", 0o600, "", "more than one line"},
		{"only a carriage return", "648219\r", 0o600, "", "control characters"},
		{"zero byte", "648219\x00", 0o600, "", "control characters"},
		{"group may write", "648219", 0o660, "", "may be written by others"},
		{"all may write", "648219", 0o602, "", "may be written by others"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "pin")
			if err := os.WriteFile(path, []byte(test.content), test.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil { // The umask took bits off.
				t.Fatal(err)
			}
			pin, err := pinlatch.ReadPIN(path)
			if test.err == "" {
				if err != nil || string(pin) != test.want {
					t.Errorf("%q, %v; want %q", pin, err, test.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), path) {
				t.Fatalf("want an error with %q and the path, got %v", test.err, err)
			}
			if strings.Contains(err.Error(), "6482") {
				t.Errorf("the error shows the PIN: %v", err)
			}
		})
	}
	if _, err := pinlatch.ReadPIN(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent file was read")
	}
}
