// SPDX-License-Identifier: Apache-2.0

package hsm

import "testing"

func TestHasDefaultPath(t *testing.T) {
	secret := &HSMSecret{}
	secret.Namespace, secret.Name = "app", "db"
	for path, want := range map[string]bool{
		"secrets/app/db": true, "": false, "secrets/app/": false, "secrets/app": false, "secrets/app/db/x": false,
		"secrets/app/dbx": false, "secrets/ap/db": false, "other/app/db": false, "app/db": false,
	} {
		secret.Spec.HSMPath = path
		if got := secret.HasDefaultPath(); got != want || want != (path == secret.DefaultPath()) {
			t.Errorf("%q: %t, want %t", path, got, want)
		}
		if n := testing.AllocsPerRun(10, func() { secret.HasDefaultPath() }); n != 0 {
			t.Errorf("%q: %v allocations", path, n)
		}
	}
}
