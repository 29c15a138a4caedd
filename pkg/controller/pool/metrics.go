// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// The figures of the controller, beside those of controller-runtime. They name no
// object.
var (
	statusWrites = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "hsm_controller_pool_status_writes_total",
		Help: "Writes of the status of an HSMPool.",
	})
	refusedReports = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "hsm_controller_pool_refused_reports_total",
		Help: "Reports that do not count: of pods that are none of discovery's, or of what a node may not say. Each is counted once.",
	})
	pools = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "hsm_controller_pools",
		Help: "HSMPools by phase.",
	}, []string{"phase"})
	devices = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "hsm_controller_pool_devices",
		Help: "Tokens in HSMPools, available or not.",
	}, []string{"available"})
	troubledMembers = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "hsm_controller_pool_troubled_members",
		Help: "Members of HSMPools with a problem that is to be solved before it is too late.",
	}, []string{"problem"})
)

func init() {
	metrics.Registry.MustRegister(statusWrites, refusedReports, pools, devices, troubledMembers)
}

// measure sets the gauges.
func measure(d decision) {
	phases := map[v1alpha1.PoolPhase]int{
		v1alpha1.PoolPhasePending: 0, v1alpha1.PoolPhaseAggregating: 0, v1alpha1.PoolPhaseReady: 0,
		v1alpha1.PoolPhasePartial: 0, v1alpha1.PoolPhaseError: 0,
	}
	troubled := map[string]int{problemStuckObjects: 0, v1alpha1.HSMPoolNeedsRelayout: 0, v1alpha1.HSMPoolFirmwareKnownBad: 0}
	var total, available int32
	for _, status := range d.statuses {
		phases[status.Phase]++
		total += status.TotalDevices
		available += status.AvailableDevices
		for i := range status.Members {
			for _, problem := range problemsOf(&status.Members[i]) {
				troubled[problem]++
			}
		}
	}
	for problem, count := range troubled {
		troubledMembers.WithLabelValues(problem).Set(float64(count))
	}
	for phase, count := range phases {
		pools.WithLabelValues(string(phase)).Set(float64(count))
	}
	devices.WithLabelValues("true").Set(float64(available))
	devices.WithLabelValues("false").Set(float64(total - available))
}

// problemStuckObjects is the problem of a member that has stuckObjects. The other problems
// are named as their conditions.
const problemStuckObjects = "StuckObjects"

func problemsOf(m *v1alpha1.PoolMember) (problems []string) {
	if len(m.StuckObjects) > 0 {
		problems = append(problems, problemStuckObjects)
	}
	if relayoutWarning(m) != "" {
		problems = append(problems, v1alpha1.HSMPoolNeedsRelayout)
	}
	if firmwareWarning(m) != "" {
		problems = append(problems, v1alpha1.HSMPoolFirmwareKnownBad)
	}
	return problems
}
