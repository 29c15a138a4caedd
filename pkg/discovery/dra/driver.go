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

	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/discovery/inventory"
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
	// RescanInterval is the longest time between two looks at the node.
	RescanInterval time.Duration
}

// Driver is the driver of one node.
type Driver struct {
	config Config
	cdi    cdiFiles

	mu     sync.Mutex
	ledger inventory.Ledger
	// found is the last look at the node; nil before the first. It is entered into the
	// ledger once that is recalled.
	found    *inventory.Found
	recalled bool
	// withoutTaints is true on a cluster that keeps no taints of devices.
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

// Update tells the driver what a look at the node has found.
func (d *Driver) Update(ctx context.Context, found inventory.Found) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.found = &found
	if d.recalled {
		d.enter(ctx)
	}
	d.notify()
}

// enter takes the last look into the ledger, and moves the files of claims that were
// prepared to where their tokens are now. The caller has locked.
func (d *Driver) enter(ctx context.Context) {
	d.ledger.Update(*d.found)
	if err := d.cdi.move(ctx, func(name string) string {
		device, _ := d.ledger.Device(name)
		return device.Path
	}); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot tell the container runtime where tokens are now; will try again at the next look")
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

// serve begins once it is known what was published before, and what is on the node now:
// kubelet is not told of a driver that could not answer, and nothing that was published
// vanishes by a restart.
func (d *Driver) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.mu.Lock()
	d.fail = cancel
	d.mu.Unlock()
	if err := d.recall(ctx); err != nil {
		return err
	}
	if err := d.firstLook(ctx); err != nil {
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

// firstLook waits until the node was looked at.
func (d *Driver) firstLook(ctx context.Context) error {
	for {
		d.mu.Lock()
		found, changed := d.found, d.changed
		d.mu.Unlock()
		if found != nil {
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
		// A token that is gone must not look as if it were there.
		d.withoutTaints = true
		d.notify()
	case !errors.Is(err, kubeletplugin.ErrRecoverable):
		d.fail(fmt.Errorf("%s: %w", message, err))
	}
}
