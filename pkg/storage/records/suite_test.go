// SPDX-License-Identifier: Apache-2.0

package records_test

import (
	"testing"

	"j5t.io/hsm/test/framework/storagesuite"
)

// TestSuite is Kubernetes' storage suite over a backend in memory: what fails
// here is this package's fault, and no agent's.
func TestSuite(t *testing.T) {
	newBackend := func(*testing.T) storagesuite.Backend {
		m := newMemory()
		return storagesuite.Backend{Backend: m, Compact: func(_ *testing.T, revision uint64) { m.compact(revision) }}
	}
	storagesuite.Run(t, newBackend, map[string]string{
		"RunTestCreateWithTTL":           storagesuite.TTL,
		"RunTestGuaranteedUpdateWithTTL": storagesuite.TTL,
	})
}
