// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"

	"k8s.io/dynamic-resource-allocation/kubeletplugin"
)

// WatchHealthStatus implements kubeletplugin.DRAPlugin: a report after each scan of
// the node. Without scans, kubelet treats the health of devices as unknown.
func (d *Driver) WatchHealthStatus(ctx context.Context, reports chan<- kubeletplugin.DeviceHealthReport) error {
	for {
		report, changed := d.health()
		select {
		case <-ctx.Done():
			return nil
		case reports <- report:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// health is that of all devices, and a channel that is closed at the next scan.
func (d *Driver) health() (report kubeletplugin.DeviceHealthReport, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, device := range d.tracker.Devices() {
		health := kubeletplugin.DeviceHealth{
			PoolName: d.config.Node, DeviceName: device.Name,
			Health: kubeletplugin.HealthStatusHealthy, LastUpdated: d.scan.Time,
			HealthCheckTimeout: 3 * d.config.RescanInterval,
		}
		switch {
		case !device.Lost.IsZero():
			health.Health, health.Message = kubeletplugin.HealthStatusUnhealthy, "the token was unplugged, or cannot be used"
		case device.Path == "":
			health.Health = kubeletplugin.HealthStatusUnknown
		}
		report.Devices = append(report.Devices, health)
	}
	return report, d.changed
}
