// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// runs of kubectl, of each kind; the median counts.
const runs = 15

// BenchmarkTable has kubectl list 1,000 HSMSecrets, and the same 1,000 as Secrets,
// in turn.
func BenchmarkTable(b *testing.B) {
	list := func(resource string) time.Duration {
		b.Helper()
		began := time.Now()
		out, _, err := hsm.Kubectl(hsm.AdminKubeconfig).Run(b.Context(), "get", resource, "--all-namespaces")
		took := time.Since(began)
		if err != nil || strings.Count(out, namespace+" ") != objects {
			b.Fatalf("kubectl get %s: %d objects, %v", resource, strings.Count(out, namespace+" "), err)
		}
		return took
	}
	for b.Loop() {
		list("hsmsecrets") // Discovery is cached from now on.
		var ours, theirs []time.Duration
		for range runs {
			ours = append(ours, list("hsmsecrets"))
			theirs = append(theirs, list("secrets"))
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		ratio := ours[runs/2].Seconds() / theirs[runs/2].Seconds()
		b.ReportMetric(float64(ours[runs/2].Milliseconds()), "hsmsecrets-ms")
		b.ReportMetric(float64(theirs[runs/2].Milliseconds()), "secrets-ms")
		b.ReportMetric(ratio, "ratio")
		fmt.Printf("figure: table-list-ratio %.2f\n", ratio)
	}
}
