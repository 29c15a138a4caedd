// SPDX-License-Identifier: Apache-2.0

// Package discovery finds tokens on a node and reports them on its own pod. It owns the
// decision which device belongs to which HSMDevice, and when to scan and to report. It
// never opens a device, and never decides for the cluster: the controller does.
package discovery

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/discovery/allocatable"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	hsmlisters "j5t.io/hsm/pkg/generated/listers/hsm/v1alpha1"
)

const (
	// minReportAge bounds how often a report is renewed that says nothing new. A
	// gracePeriod below twice of it cannot be kept.
	minReportAge = 5 * time.Second
	// eventScanDelay is the time from an event to a scan: one plug makes several events.
	eventScanDelay = 100 * time.Millisecond
	// settledScanDelay is the time from an event to a second scan: by then udev has set
	// permissions and links, for which the kernel sends no event.
	settledScanDelay = 2 * time.Second
)

// Access gives pods access to tokens.
type Access interface {
	// Run does so until the context ends.
	Run(ctx context.Context)
	// Update takes a scan of the node. It never blocks.
	Update(ctx context.Context, scan allocatable.Scan)
}

// Config says where discovery runs, and with what.
type Config struct {
	Matcher
	// PodNamespace and PodName are those of the pod that reports.
	PodNamespace, PodName string
	// RescanInterval is the longest time between two scans of the node, a safety net in case
	// the kernel's events are lost.
	RescanInterval time.Duration
	// HSM reads HSMDevices and HSMPools, Metadata the node's labels and the pod.
	HSM      versioned.Interface
	Metadata metadata.Interface
	// Listen opens the source of the kernel's events.
	Listen  func() (Source, error)
	Metrics *Metrics
	// Access is nil if pods are given no access.
	Access Access
}

// Discovery is the discovery of one node.
type Discovery struct {
	config     Config
	hsmDevices hsmlisters.HSMDeviceLister
	pools      hsmlisters.HSMPoolLister
	nodes      cache.Store
	// wake has an item while a change calls for a scan.
	wake chan struct{}
	// lastScan is when the node was last scanned, in Unix nanoseconds; 0 before the first.
	lastScan atomic.Int64
}

// New returns a discovery that does not run yet.
func New(config Config) *Discovery {
	return &Discovery{config: config, wake: make(chan struct{}, 1)}
}

// Run scans and reports until the context ends. It reports nothing before it knows the
// HSMDevices and the node's labels. While the API is away later, it goes on with what it
// knows.
func (d *Discovery) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var group wait.Group
	defer group.Wait()
	defer cancel()

	group.StartWithContext(ctx, d.listen)
	if d.config.Access != nil {
		group.StartWithContext(ctx, d.config.Access.Run)
	}
	synced, err := d.watch(ctx, &group)
	if err != nil {
		return err
	}
	writer, err := d.openWriter(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	if cache.WaitFor(ctx, "HSMDevices and the node", synced...) {
		d.loop(ctx, writer)
	}
	return nil
}

// openWriter waits while the API server is away. That the pod does not exist is an error.
func (d *Discovery) openWriter(ctx context.Context) (*report.Writer, error) {
	backoff := newBackoff()
	for {
		writer, err := report.Open(ctx, d.config.Metadata, d.config.PodNamespace, d.config.PodName)
		if err == nil || apierrors.IsNotFound(err) {
			return writer, err
		}
		klog.FromContext(ctx).Error(err, "Cannot read the last report; will try again")
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(backoff.Step()):
		}
	}
}

// loop scans the node when woken and at every interval.
func (d *Discovery) loop(ctx context.Context, writer *report.Writer) {
	backoff := newBackoff()
	next := time.Now()
	var settled time.Time // when to scan for the second time after an event
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
			settled = time.Now().Add(settledScanDelay)
			next = earlier(next, time.Now().Add(eventScanDelay))
			continue
		case <-timer.C:
		}
		next = time.Now().Add(min(d.config.RescanInterval, d.maxReportAge()))
		if err := d.scan(ctx, writer, next); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot report; will try again")
			next = earlier(next, time.Now().Add(backoff.Step()))
		} else {
			backoff = newBackoff()
		}
		if settled.After(time.Now()) {
			next = earlier(next, settled)
		}
	}
}

// scan finds the node's devices, gives access to them, and reports, if anything is new or
// the pod's report would be too old at the next scan.
func (d *Discovery) scan(ctx context.Context, writer *report.Writer, next time.Time) error {
	node, err := d.node()
	if err != nil {
		return err
	}
	hsmDevices, err := d.hsmDevices.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list HSMDevices: %w", err)
	}
	begin := time.Now()
	entries, tokens := d.config.Match(ctx, hsmDevices, node.Labels, writer.Last(), report.Time(begin))
	d.config.Metrics.scanned(entries, time.Since(begin))
	d.lastScan.Store(begin.UnixNano())
	if d.config.Access != nil {
		d.config.Access.Update(ctx, d.scanResult(entries, tokens, report.Time(begin).Time))
	}
	if writer.Fresh(entries, next, d.maxReportAge()) {
		return nil
	}
	changed := !report.Same(writer.Last(), entries)
	err = writer.Write(ctx, entries)
	d.config.Metrics.wrote(err)
	if err == nil && changed {
		logReport(ctx, entries)
	}
	return err
}

// logReport logs a report that says something new.
func logReport(ctx context.Context, entries []report.Entry) {
	for _, entry := range entries {
		logger := klog.FromContext(ctx).WithValues("hsmDevice", klog.KRef(entry.HSMDeviceNamespace, entry.HSMDeviceName))
		logger.Info("Reported", "status", entry.DiscoveryStatus, "nodeSelected", entry.NodeSelected, "devices", len(entry.DiscoveredDevices), "error", entry.Error)
		for _, device := range entry.DiscoveredDevices {
			logger.Info("Reported a device", "path", device.DevicePath, "serial", device.SerialNumber, "reason", device.Reason, "message", device.Message)
		}
	}
}

// Healthy is an error if discovery hangs.
func (d *Discovery) Healthy() error {
	last := d.lastScan.Load()
	if age := time.Since(time.Unix(0, last)); last != 0 && age > 3*d.config.RescanInterval+time.Minute {
		return fmt.Errorf("the node was last scanned %s ago", age)
	}
	return nil
}

// notify makes the loop scan the node soon.
func (d *Discovery) notify() {
	select {
	case d.wake <- struct{}{}:
	default: // It will already.
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// newBackoff is for failures: it waits from half a second to half a minute.
func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 7, Cap: 30 * time.Second}
}
