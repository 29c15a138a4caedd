// SPDX-License-Identifier: Apache-2.0

package assets

import "testing"

func TestProgress(t *testing.T) {
	t.Parallel()
	log := &buildLog{}
	check := func(want string) {
		t.Helper()
		if got := log.progress(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check("0 packages compiled")
	_, _ = log.Write([]byte("go: downloading example.com/a v1.0.0\nexample.com/a/x\n"))
	check("1 modules downloaded, 1 packages compiled")
	log.setTotal(2) // Left, besides the one that is done.
	check("1 modules downloaded, 1 of 3 packages compiled")
	_, _ = log.Write([]byte("example.com/a/y\nexample.com/a/z\nexample.com/a\n"))
	check("1 modules downloaded, 4 of 4 packages compiled")
	log.setTotal(0)
	check("1 modules downloaded, 4 of 4 packages compiled")
}
