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
)

func init() {
	metrics.Registry.MustRegister(statusWrites, refusedReports, pools, devices)
}

// measure sets the gauges.
func measure(d decision) {
	phases := map[v1alpha1.PoolPhase]int{
		v1alpha1.PoolPhasePending: 0, v1alpha1.PoolPhaseAggregating: 0, v1alpha1.PoolPhaseReady: 0,
		v1alpha1.PoolPhasePartial: 0, v1alpha1.PoolPhaseError: 0,
	}
	var total, available int32
	for _, status := range d.statuses {
		phases[status.Phase]++
		total += status.TotalDevices
		available += status.AvailableDevices
	}
	for phase, count := range phases {
		pools.WithLabelValues(string(phase)).Set(float64(count))
	}
	devices.WithLabelValues("true").Set(float64(available))
	devices.WithLabelValues("false").Set(float64(total - available))
}
