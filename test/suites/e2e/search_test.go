// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// filesWith returns the files below dir that hold a text, as it is or in base64
// at any alignment.
func filesWith(t *testing.T, dir, text string) []string {
	t.Helper()
	forms := [][]byte{[]byte(text)}
	for offset := range 3 {
		// The characters that do not depend on what stands before or after.
		encoded := base64.StdEncoding.EncodeToString(append(make([]byte, offset), text...))
		forms = append(forms, []byte(encoded[4:len(encoded)-4]))
	}
	var found []string
	files := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, form := range forms {
			if bytes.Contains(content, form) {
				found = append(found, path)
				break
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Errorf("%s holds no file: nothing was searched", dir)
	}
	return found
}
