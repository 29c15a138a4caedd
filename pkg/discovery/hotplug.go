// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"context"
	"errors"
	"time"

	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/discovery/uevent"
)

// Source is where the kernel's events come from.
type Source interface {
	// Receive waits for an event. After uevent.ErrOverflow it can be called again, after
	// another error it cannot.
	Receive() (uevent.Event, error)
	// Close ends a Receive that waits.
	Close() error
}

// KernelEvents opens the kernel's own source.
func KernelEvents() (Source, error) { return uevent.Listen() }

// listen notifies of the kernel's events until the context ends. While there is no
// source the rescans find what changes.
func (d *Discovery) listen(ctx context.Context) {
	logger := klog.FromContext(ctx)
	backoff := newBackoff()
	for ctx.Err() == nil {
		source, err := d.config.Listen()
		if err == nil {
			// A change from before the source was open may have been missed.
			d.notify()
			backoff = newBackoff()
			err = d.receive(ctx, source)
		}
		if ctx.Err() != nil {
			return
		}
		logger.Error(err, "Cannot receive hot-plug events; until that works, rescans find devices", "rescanInterval", d.config.RescanInterval)
		select {
		case <-ctx.Done():
		case <-time.After(backoff.Step()):
		}
	}
}

// receive notifies of the events of one source until it ends, and closes it.
func (d *Discovery) receive(ctx context.Context, source Source) error {
	stop := context.AfterFunc(ctx, func() { _ = source.Close() })
	defer source.Close()
	defer stop()
	for {
		event, err := source.Receive()
		switch {
		case errors.Is(err, uevent.ErrOverflow):
			klog.FromContext(ctx).Info("Hot-plug events were lost; scanning all devices")
			d.config.Metrics.counted(overflow)
			d.notify()
		case err != nil:
			return err
		case event.ConcernsTokens():
			klog.FromContext(ctx).V(4).Info("Hot-plug event", "action", event.Action, "device", event.DevPath)
			d.config.Metrics.counted(device)
			d.notify()
		}
	}
}
