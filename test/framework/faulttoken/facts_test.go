// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// facts are what was measured on real tokens, a line each, and whether a test has shown
// that the double does the same.
var facts struct {
	sync.Mutex
	failed map[string]bool
}

// fact names what a test shows.
func fact(t *testing.T, line string) {
	t.Helper()
	t.Cleanup(func() {
		facts.Lock()
		defer facts.Unlock()
		if facts.failed == nil {
			facts.failed = map[string]bool{}
		}
		facts.failed[line] = facts.failed[line] || t.Failed() || t.Skipped()
	})
}

func TestMain(m *testing.M) {
	code := m.Run()
	reproduced := 0
	for _, failed := range facts.failed {
		if !failed {
			reproduced++
		}
	}
	if reproduced > 0 {
		fmt.Printf("figure: facts-reproduced %d\n", reproduced)
	}
	os.Exit(code)
}
