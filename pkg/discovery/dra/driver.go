// SPDX-License-Identifier: Apache-2.0

// Package dra is the Dynamic Resource Allocation driver of a node: it publishes tokens in
// ResourceSlices, and gives a pod the device file of the token that its ResourceClaim was
// allocated. It keeps its state in the ResourceSlices and in CDI files, none of its own.
// It never allocates, and opens no device.
package dra

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/discovery/allocatable"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
)

// Config says where the driver runs, and with what.
type Config struct {
	// Node is the name of the node, and of the pool of its tokens.
	Node string
	// Client reads the node and ResourceClaims, and writes ResourceSlices.
	Client kubernetes.Interface
	// KubeletDir is kubelet's folder, /var/lib/kubelet. Its paths are the same for kubelet.
	KubeletDir string
	// CDIDir is where the container runtime looks for CDI files, /var/run/cdi.
	CDIDir string
	// RescanInterval is the longest time between two scans of the node.
	RescanInterval time.Duration
}

// Driver is the driver of one node.
type Driver struct {
	config Config
	cdi    cdiFiles

	mu      sync.Mutex
	tracker allocatable.Tracker
	// scan is the last scan of the node; nil before the first. The tracker takes it once it
	// has what was published before.
	scan     *allocatable.Scan
	restored bool
	// withoutTaints is true on a cluster that does not keep taints of devices.
	withoutTaints bool
	// changed is closed, and another takes its place, when any of the above has changed.
	changed chan struct{}
	// fail ends the present serving.
	fail context.CancelCauseFunc
}

// New returns a driver that does not run yet.
func New(config Config) *Driver {
	return &Driver{config: config, cdi: cdiFiles{config.CDIDir}, changed: make(chan struct{})}
}

// Update takes a scan of the node.
func (d *Driver) Update(ctx context.Context, scan allocatable.Scan) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.scan = &scan
	if d.restored {
		d.applyScan(ctx)
	}
	d.notify()
}

// applyScan has the tracker take the last scan, and changes the files of prepared claims to
// where their tokens are now. The caller has locked.
func (d *Driver) applyScan(ctx context.Context) {
	d.tracker.Update(*d.scan)
	if err := d.cdi.move(ctx, func(name string) string {
		device, _ := d.tracker.Device(name)
		return device.Path
	}); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot write for the container runtime where tokens are now; will try again at the next scan")
	}
}

// notify wakes all who wait for a change. The caller has locked.
func (d *Driver) notify() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// Run serves kubelet and publishes until the context ends. It goes on after errors.
func (d *Driver) Run(ctx context.Context) {
	ctx = klog.NewContext(ctx, klog.LoggerWithName(klog.FromContext(ctx), "dra"))
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 7, Cap: 30 * time.Second}
	for {
		err := d.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		klog.FromContext(ctx).Error(err, "Cannot give access to tokens; will try again")
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff.Step()):
		}
	}
}

// serve waits until it is known what was published before and what is on the node now. So
// kubelet never sees a driver that cannot answer, and a restart takes back nothing that was
// published.
func (d *Driver) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.mu.Lock()
	d.fail = cancel
	d.mu.Unlock()
	if err := d.restore(ctx); err != nil {
		return err
	}
	if err := d.awaitScan(ctx); err != nil {
		return err
	}
	helper, err := d.startHelper(ctx)
	if err != nil {
		return err
	}
	defer helper.Stop()

	var published *resourceslice.DriverResources
	for {
		resources, changed := d.resources()
		if published == nil || !reflect.DeepEqual(*published, resources) {
			if err := helper.PublishResources(ctx, resources); err != nil {
				return fmt.Errorf("publish ResourceSlices: %w", err)
			}
			published = &resources
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitScan waits for the first scan of the node.
func (d *Driver) awaitScan(ctx context.Context) error {
	for {
		d.mu.Lock()
		scan, changed := d.scan, d.changed
		d.mu.Unlock()
		if scan != nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (d *Driver) startHelper(ctx context.Context) (*kubeletplugin.Helper, error) {
	plugin := filepath.Join(d.config.KubeletDir, "plugins", attribute.Driver)
	for folder, mode := range map[string]os.FileMode{plugin: 0o750, d.config.CDIDir: 0o755} {
		if err := os.MkdirAll(folder, mode); err != nil {
			return nil, fmt.Errorf("make a folder of the driver: %w", err)
		}
	}
	helper, err := kubeletplugin.Start(ctx, d,
		kubeletplugin.DriverName(attribute.Driver),
		kubeletplugin.KubeClient(d.config.Client),
		kubeletplugin.NodeName(d.config.Node),
		kubeletplugin.PluginDataDirectoryPath(plugin),
		kubeletplugin.RegistrarDirectoryPath(filepath.Join(d.config.KubeletDir, "plugins_registry")),
	)
	if err != nil {
		return nil, fmt.Errorf("serve kubelet: %w", err)
	}
	return helper, nil
}

// HandleError implements kubeletplugin.DRAPlugin.
func (d *Driver) HandleError(ctx context.Context, err error, message string) {
	klog.FromContext(ctx).Error(err, message)
	d.mu.Lock()
	defer d.mu.Unlock()
	var dropped *resourceslice.DroppedFieldsError
	switch {
	case errors.As(err, &dropped) && slices.Contains(dropped.DisabledFeatures(), "DRADeviceTaints"):
		// A token that is gone must not seem to be there.
		d.withoutTaints = true
		d.notify()
	case !errors.Is(err, kubeletplugin.ErrRecoverable):
		d.fail(fmt.Errorf("%s: %w", message, err))
	}
}
