// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestRights searches the log of our server, which runs with the ServiceAccount
// of the manifests and no more, for what it may not read or could not watch.
func TestRights(t *testing.T) {
	if response, body := get(t, monitoring(t), "/readyz/informer-sync", nil); response.StatusCode != http.StatusOK {
		t.Errorf("not all informers have what they watch: %s", body)
	}
	log := readFile(t, filepath.Join(hsm.LogDir(), "apiserver.log"))
	searched := 0
	for _, line := range linesWith(log) {
		searched++
		lower := strings.ToLower(line)
		for _, word := range []string{"forbidden", "failed to watch", "failed to list", "unauthorized"} {
			if strings.Contains(lower, word) && strings.Contains(lower, "reflector") || strings.Contains(line, "hsm-system:hsm-apiserver") {
				t.Errorf("our server lacks a right: %s", line)
				break
			}
		}
	}
	if searched == 0 {
		t.Error("the log is empty: the search proves nothing")
	}
}
