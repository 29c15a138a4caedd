// SPDX-License-Identifier: Apache-2.0

// Package deviceplugin gives pods access to tokens by kubelet's older way, for clusters
// without Dynamic Resource Allocation: an extended resource for each type of token. It
// owns its sockets in kubelet's folder. It keeps no account of who has which token,
// kubelet does, and opens no device.
package deviceplugin

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/discovery/inventory"
)

// resources names the resource of each type of token. The DeviceClasses of the DRA
// driver have the same names: a cluster has one or the other.
var resources = map[v1alpha1.DeviceType]string{
	v1alpha1.DeviceTypePicoHSM:      "pico",
	v1alpha1.DeviceTypeSmartCardHSM: "smartcard-hsm",
	v1alpha1.DeviceTypeGeneric:      "generic",
}

// Manager has a plugin for each type of token that the node has had.
type Manager struct {
	dir string

	mu     sync.Mutex
	ledger inventory.Ledger
	// changed is closed, and another takes its place, at each look.
	changed chan struct{}
}

// New returns a manager for the folder where kubelet has its socket, such as
// /var/lib/kubelet/device-plugins.
func New(dir string) *Manager {
	return &Manager{dir: dir, changed: make(chan struct{})}
}

// Update tells the manager what a look at the node has found.
func (m *Manager) Update(_ context.Context, found inventory.Found) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ledger.Update(found)
	close(m.changed)
	m.changed = make(chan struct{})
}

// Run runs a plugin for each type of token, from when there is one, until the context
// ends.
func (m *Manager) Run(ctx context.Context) {
	ctx = klog.NewContext(ctx, klog.LoggerWithName(klog.FromContext(ctx), "deviceplugin"))
	var group wait.Group
	defer group.Wait()
	running := map[v1alpha1.DeviceType]bool{}
	for {
		changed := m.watch()
		for deviceType, name := range resources {
			if devices, _ := m.devices(deviceType); len(devices) > 0 && !running[deviceType] {
				running[deviceType] = true
				plugin := &plugin{manager: m, deviceType: deviceType, name: name}
				group.StartWithContext(ctx, plugin.run)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Manager) watch() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// devices are those of a type, and a channel that is closed when they may have changed.
func (m *Manager) devices(deviceType v1alpha1.DeviceType) (devices []inventory.Device, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, device := range m.ledger.Devices() {
		if device.Attributes[attribute.DeviceType] == string(deviceType) {
			devices = append(devices, device)
		}
	}
	return devices, m.changed
}
