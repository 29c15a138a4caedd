// SPDX-License-Identifier: Apache-2.0

// Package deviceplugin gives pods access to tokens by device plugins, for clusters without
// Dynamic Resource Allocation. Each token is an extended resource of its own, because a pod
// cannot ask for a certain one of several devices of a resource. The package owns its sockets
// in kubelet's folder. It does not keep who has which token, kubelet does, and opens no device.
package deviceplugin

import (
	"context"
	"sync"

	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/discovery/allocatable"
)

// Manager has a plugin for each token of the node.
type Manager struct {
	dir string

	mu      sync.Mutex
	tracker allocatable.Tracker
	// changed is closed, and another takes its place, at each scan.
	changed chan struct{}
}

// New returns a manager for the folder where kubelet has its socket, such as
// /var/lib/kubelet/device-plugins.
func New(dir string) *Manager {
	return &Manager{dir: dir, changed: make(chan struct{})}
}

// Update takes a scan of the node.
func (m *Manager) Update(_ context.Context, scan allocatable.Scan) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tracker.Update(scan)
	close(m.changed)
	m.changed = make(chan struct{})
}

// Run runs the plugins until the context ends: one for each token that is known.
func (m *Manager) Run(ctx context.Context) {
	ctx = klog.NewContext(ctx, klog.LoggerWithName(klog.FromContext(ctx), "deviceplugin"))
	stops := map[string]func(){}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for {
		names, changed := m.names()
		for name, stop := range stops {
			if !names[name] {
				stop()
				delete(stops, name)
			}
		}
		for name := range names {
			if stops[name] == nil {
				stops[name] = m.start(ctx, name)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// start runs the plugin of a token. The returned function ends it and waits for its end: its
// socket is that of the next one, too.
func (m *Manager) start(ctx context.Context, name string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { (&plugin{manager: m, name: name}).run(ctx) })
	return func() {
		cancel()
		group.Wait()
	}
}

// names are those of all devices, and a channel that is closed when they may have changed.
func (m *Manager) names() (names map[string]bool, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names = map[string]bool{}
	for _, device := range m.tracker.Devices() {
		names[device.Name] = true
	}
	return names, m.changed
}

// device is that of a name, unless it is forgotten, and a channel as that of names.
func (m *Manager) device(name string) (device allocatable.Device, known bool, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	device, known = m.tracker.Device(name)
	return device, known, m.changed
}
