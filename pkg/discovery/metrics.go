// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"j5t.io/hsm/pkg/discovery/report"
)

// Metrics are the figures of one discovery. They name no device.
type Metrics struct {
	scans   prometheus.Histogram
	devices *prometheus.GaugeVec
	writes  *prometheus.CounterVec
	events  *prometheus.CounterVec
}

// The kinds of hot-plug events that are counted.
const (
	device   = "device"
	overflow = "overflow"
)

// usable stands for the reason of devices that have none.
const usable = "Usable"

// NewMetrics returns metrics that are registered with registerer.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		scans: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "hsm_discovery_scan_duration_seconds",
			Help:    "Time taken to look at all devices of the node.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 6),
		}),
		devices: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hsm_discovery_devices",
			Help: "Devices that match an HSMDevice, by the reason why they cannot be used, or Usable.",
		}, []string{"reason"}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hsm_discovery_report_writes_total",
			Help: "Writes of the report to the pod, by result: ok or error.",
		}, []string{"result"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hsm_discovery_hotplug_events_total",
			Help: "Kernel events that made discovery look at the node, by kind: device, or overflow where events were lost.",
		}, []string{"kind"}),
	}
	registerer.MustRegister(m.scans, m.devices, m.writes, m.events)
	return m
}

func (m *Metrics) scanned(entries []report.Entry, took time.Duration) {
	m.scans.Observe(took.Seconds())
	m.devices.Reset()
	for _, entry := range entries {
		for _, device := range entry.DiscoveredDevices {
			reason := string(device.Reason)
			if reason == "" {
				reason = usable
			}
			m.devices.WithLabelValues(reason).Inc()
		}
	}
}

func (m *Metrics) wrote(err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.writes.WithLabelValues(result).Inc()
}

func (m *Metrics) counted(kind string) { m.events.WithLabelValues(kind).Inc() }
