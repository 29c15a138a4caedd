// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"j5t.io/hsm/pkg/storage/records"
)

// callDuration names no key: names of secrets are not for those who read metrics.
var callDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Subsystem: "hsm",
	Name:      "agent_call_duration_seconds",
	Help: "Time that a call to the agents took, by method and reason: OK, or why it failed. " +
		"It contains the time to connect, and a repeated attempt. A watch is measured until its first answer.",
	// From a read of the index to the longest call that is waited for.
	Buckets:        []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
	StabilityLevel: metrics.ALPHA,
}, []string{"method", "reason"})

var connectedDesc = metrics.NewDesc("hsm_agent_connected",
	"1 for the agent that this server has a connection to, 0 for the others. A server connects when a request needs it.",
	[]string{"address", "serial"}, nil, metrics.ALPHA, "")

func init() { legacyregistry.MustRegister(callDuration) }

func observe(m method, start time.Time, err error) {
	callDuration.WithLabelValues(m.name, outcome(err)).Observe(time.Since(start).Seconds())
}

// outcome is the label reason of a call: OK, or the cause of its error if that has
// one, else the reason that clients of the API see.
func outcome(err error) string {
	switch {
	case err == nil:
		return "OK"
	case errors.Is(err, records.ErrAddressInUse):
		return "ADDRESS_IN_USE"
	case errors.Is(err, records.ErrExpired):
		return "EXPIRED"
	case errors.Is(err, records.ErrFutureRevision):
		return "FUTURE_REVISION"
	}
	var said apierrors.APIStatus
	if errors.As(err, &said) && said.Status().Details != nil {
		for _, cause := range said.Status().Details.Causes {
			if cause.Type != "" {
				return string(cause.Type)
			}
		}
	}
	return string(apierrors.ReasonForError(err))
}

// Collector collects the metrics of the client's agents. It reads them at each
// scrape, so an agent that is removed leaves no series behind.
func (c *Client) Collector() metrics.StableCollector { return &collector{client: c} }

type collector struct {
	metrics.BaseStableCollector
	client *Client
}

func (c *collector) DescribeWithStability(ch chan<- *metrics.Desc) { ch <- connectedDesc }

func (c *collector) CollectWithStability(ch chan<- metrics.Metric) {
	agents, _ := c.client.connections.known()
	current, _ := c.client.connections.connected()
	for _, agent := range agents {
		connected := 0.0
		if current != nil && *current == agent {
			connected = 1
		}
		ch <- metrics.NewLazyConstMetric(connectedDesc, metrics.GaugeValue, connected, agent.Address, agent.Serial)
	}
}
