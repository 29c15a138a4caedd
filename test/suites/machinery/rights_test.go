// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"net/http"
	"path/filepath"
	"testing"
)

// TestRights searches the log of our server, which runs with the ServiceAccount
// of the manifests and no more, for what it may not do or could not watch.
func TestRights(t *testing.T) {
	if said := get(t, monitoring(t), "/readyz/informer-sync", nil); said.code != http.StatusOK {
		t.Errorf("not all informers have what they watch: %s", said.body)
	}
	log := readFile(t, filepath.Join(hsm.LogDir(), "apiserver.log"))
	for _, part := range []string{"Failed to watch", `hsm-system:hsm-apiserver\" cannot`} {
		for _, line := range linesWith(log, part) {
			t.Errorf("our server lacks a right: %s", line)
		}
	}
	if len(linesWith(log, "Caches populated", "ResourceQuota")) == 0 {
		t.Error("the log does not tell what informers do: the search proves nothing")
	}
}
