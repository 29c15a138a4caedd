// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// The figures of the controller, beside those of controller-runtime. They name
// no object.
var (
	actions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hsm_controller_actions_total",
		Help: "Writes of a Secret or to a token, by action and reason.",
	}, []string{"action", "reason"})
	valueReads = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "hsm_controller_value_reads_total",
		Help: "Reads of an HSMSecret's data. Each reads the token.",
	})
	statusWrites = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "hsm_controller_status_writes_total",
		Help: "Writes of the status of an HSMSecret.",
	})
	failures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hsm_controller_failures_total",
		Help: "Syncs that failed, by reason.",
	}, []string{"reason"})
	apiAway = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "hsm_controller_unavailable",
		Help: "1 while the token or an API server is away.",
	})
)

func init() {
	metrics.Registry.MustRegister(actions, valueReads, statusWrites, failures, apiAway)
}
