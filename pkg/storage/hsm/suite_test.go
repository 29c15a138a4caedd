// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"fmt"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"j5t.io/hsm/pkg/agent"
	"j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/test/framework/agenttest"
	"j5t.io/hsm/test/framework/storagesuite"
)

// TestSuite is Kubernetes' storage suite over real agents, each on a SoftHSM
// token of its own, over TLS.
func TestSuite(t *testing.T) {
	run, skipped := storagesuite.Run(t, func(t *testing.T) storagesuite.Backend {
		// The suite counts revisions, as etcd does; so the clock must stand still.
		now := clocktesting.NewFakePassiveClock(time.Now())
		a := agenttest.Start(t, func(o *agent.Options) { o.Clock = now })
		return storagesuite.Backend{
			Backend: newClient(t, a),
			Compact: func(t *testing.T, revision uint64) {
				if err := a.Compact(revision); err != nil {
					t.Fatal(err)
				}
			},
		}
	}, map[string]string{
		"RunTestCreateWithTTL":           storagesuite.TTL,
		"RunTestGuaranteedUpdateWithTTL": storagesuite.TTL,
	})
	fmt.Printf("figure: storage-suite-run %d\nfigure: storage-suite-skipped %d\n", run, skipped)
}

func newClient(t *testing.T, a *agenttest.Agent) *hsm.Client {
	t.Helper()
	c, err := hsm.NewClient(newCluster(), a.Client)
	if err != nil {
		t.Fatal(err)
	}
	c.SetAgents(agentsAt(a.Address))
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
