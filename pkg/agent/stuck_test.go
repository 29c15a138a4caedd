// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/test/framework/faulttoken"
)

// An object that the token can never destroy takes the store away from nobody: one who
// reads and writes all the while is served all the while, and the status names it.
func TestStuckObjectIsNoticedByNobody(t *testing.T) {
	const stuck, rounds = 5, 60
	var unserved time.Duration
	for _, p := range []faulttoken.Profile{faulttoken.Pico66With1M, faulttoken.PicoNext} {
		t.Run(p.Name, func(t *testing.T) {
			h := startOn(t, p)
			var revision uint64
			logins := h.Calls().Logins
			broken := map[string]bool{}
			for i := range rounds {
				began := time.Now()
				out, err := h.store.Commit(h.ctx, put("a", revision, fmt.Sprint(i)))
				_, reading := h.store.Get(h.ctx, &agentv1.GetRequest{Key: "a"})
				if err != nil || reading != nil {
					unserved += time.Since(began)
					t.Fatalf("round %d: commit says %v, get says %v", i, err, reading)
				}
				revision = out.GetRevision()
				if len(broken) < stuck { // The one of the last update, which the update after the next leaves to be destroyed.
					var label string
					for _, o := range h.token.Flash() {
						if strings.HasPrefix(o.Label, "segment-") {
							label = max(label, o.Label)
						}
					}
					if i%2 == 0 && !broken[label] {
						broken[label] = true
						h.commit(put("a", revision, "over")) // It is not read any more.
						revision = h.get("a").GetRevision()
						h.token.Change(label, func(o *faulttoken.Object) bool {
							o.Broken = true
							return true
						})
					}
				}
			}
			h.eventually("the status names them", func() bool { return len(h.status().GetStuckObjects()) == stuck })
			for _, label := range h.status().GetStuckObjects() {
				if !broken[label] {
					t.Errorf("%s is said to be stuck", label)
				}
			}
			if got := h.Calls().Logins - logins; got != 0 {
				t.Errorf("it cost %d logins", got)
			}
			h.eventually("the others are destroyed", func() bool { return h.segments() <= stuck+6 })
		})
	}
	fmt.Printf("figure: stuck-object-unserved-ms %d\n", unserved.Milliseconds())
}

// segments counts the segments on the token.
func (h *harness) segments() (n int) {
	for _, o := range h.token.Flash() {
		if strings.HasPrefix(o.Label, "segment-") {
			n++
		}
	}
	return n
}
