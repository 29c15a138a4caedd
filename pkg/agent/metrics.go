// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
)

// metrics tells what a status tells, and how long the token takes. No metric
// names a record.
type metrics struct {
	module   module
	state    *state
	versions *mvcc.Store
	work     *prometheus.HistogramVec
	failures *prometheus.CounterVec
}

var (
	callsDesc = prometheus.NewDesc("hsm_token_calls_total",
		"PKCS#11 calls to the token, failed ones too, by function.", []string{"function"}, nil)
	servedDesc = prometheus.NewDesc("hsm_token_served",
		"1 while the store on the token is served, by reason: OK, or why it is not.", []string{"reason"}, nil)
	pinDesc = prometheus.NewDesc("hsm_token_pin_state",
		"1 for what is known of the PIN in the PIN file, by state.", []string{"state"}, nil)
	objectsDesc = prometheus.NewDesc("hsm_token_objects",
		"PKCS#11 data objects on the token, by kind: store, foreign (those of the older operator are among them), "+
			"quarantined; and free, which new records can still take.", []string{"kind"}, nil)
	bytesDesc = prometheus.NewDesc("hsm_token_bytes",
		"Bytes of the store's objects, by kind: store, and free, which new records can still take.", []string{"kind"}, nil)
	recordsDesc = prometheus.NewDesc("hsm_store_records", "Records in the store.", nil, nil)
	scrubDesc   = prometheus.NewDesc("hsm_token_last_scrub_timestamp_seconds",
		"When the whole store was last read from the token itself, in seconds since 1970.", nil, nil)
)

func newMetrics(m module, state *state, versions *mvcc.Store) *metrics {
	return &metrics{
		module: m, state: state, versions: versions,
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hsm_housekeeping_failures_total",
			Help: "Failures of work on the store that no request asked for, by task: collecting_garbage, compacting, scrubbing. The store is served all the same.",
		}, []string{"task"}),
		work: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "hsm_token_work_duration_seconds",
			Help: "Time that the token took, by work: reading one record, committing a group of writes, and so on.",
			// From a read of SoftHSM to a scrub of a full stick.
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120},
		}, []string{"work"}),
	}
}

// handler serves the metrics, and those of the process.
func (m *metrics) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, m.work, m.failures, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

func (m *metrics) observe(work string, took time.Duration) {
	m.work.WithLabelValues(label(work)).Observe(took.Seconds())
}

func (m *metrics) housekeepingFailed(task string) { m.failures.WithLabelValues(label(task)).Inc() }

func label(words string) string { return strings.ReplaceAll(words, " ", "_") }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{callsDesc, servedDesc, pinDesc, objectsDesc, bytesDesc, recordsDesc, scrubDesc} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	calls := m.module.Calls()
	for function, count := range map[string]uint64{
		"C_Login": calls.Logins, "C_FindObjectsInit": calls.Finds, "C_GetAttributeValue": calls.LabelReads + calls.ValueReads,
		"C_CreateObject": calls.Creates, "C_DestroyObject": calls.Destroys, "C_GenerateKeyPair": calls.KeyPairs,
		"C_DeriveKey": calls.Derives, "C_GenerateRandom": calls.Randoms,
	} {
		ch <- prometheus.MustNewConstMetric(callsDesc, prometheus.CounterValue, float64(count), function)
	}
	gauge := func(desc *prometheus.Desc, value int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
	}
	status := statusOf(m.state, m.versions)
	if reason := status.GetReason(); reason == agentv1.Reason_REASON_UNSPECIFIED {
		gauge(servedDesc, 1, "OK")
	} else {
		gauge(servedDesc, 0, strings.TrimPrefix(reason.String(), "REASON_"))
	}
	if state := status.GetPinState(); state != agentv1.PINState_PIN_STATE_UNSPECIFIED {
		gauge(pinDesc, 1, strings.TrimPrefix(state.String(), "PIN_STATE_"))
	}
	gauge(recordsDesc, status.GetRecords())
	if c := status.GetCapacity(); c != nil {
		gauge(objectsDesc, c.GetObjects()-c.GetForeignObjects()-c.GetQuarantinedObjects(), "store")
		gauge(objectsDesc, c.GetForeignObjects(), "foreign")
		gauge(objectsDesc, c.GetQuarantinedObjects(), "quarantined")
		gauge(objectsDesc, c.GetFreeObjects(), "free")
		gauge(bytesDesc, c.GetBytes(), "store")
		gauge(bytesDesc, c.GetFreeBytes(), "free")
	}
	if scrub := status.GetScrub(); scrub != nil {
		gauge(scrubDesc, scrub.GetTime())
	}
}
