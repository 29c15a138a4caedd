// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"testing"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/product"
)

// TestSoftHSM installs the overlay for those who have no hardware, as docs/operations.md
// says.
func TestSoftHSM(t *testing.T) {
	ctx := t.Context()
	w := newWorld(ctx, t, "node-1")
	w.pool = "softhsm"
	w.kubectl(ctx, t, "", "label", "node", "node-1", "hsm.j5t.io/softhsm=true")
	w.kubectl(ctx, t, w.manifests(ctx, t, product.SoftHSM), "apply", "--server-side", "-f", "-")
	w.observer = &observer{}
	w.write(ctx, t, "1")
	w.readable(ctx, t, "1")
	w.inPhase(ctx, t, v1alpha1.PoolPhaseReady)
	rights(t, w)
}
