// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"fmt"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	draclient "k8s.io/dynamic-resource-allocation/client"
	"k8s.io/dynamic-resource-allocation/resourceslice"

	"j5t.io/hsm/pkg/discovery/allocatable"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
)

// TaintUnusable is the key of the taint of a token that was unplugged, or cannot be used
// for another reason that is in discovery's report.
const TaintUnusable = "hsm.j5t.io/unusable"

// restore reads, once, what an earlier process has published.
func (d *Driver) restore(ctx context.Context) error {
	if d.restored { // Only this goroutine writes it.
		return nil
	}
	list, err := draclient.New(d.config.Client).ResourceSlices().List(ctx, metav1.ListOptions{FieldSelector: fields.Set{
		resourcev1.ResourceSliceSelectorDriver:   attribute.Driver,
		resourcev1.ResourceSliceSelectorNodeName: d.config.Node,
	}.String()})
	if err != nil {
		return fmt.Errorf("list the ResourceSlices of the node: %w", err)
	}
	var devices []allocatable.Device
	for _, slice := range list.Items {
		for _, device := range slice.Spec.Devices {
			devices = append(devices, fromSlice(device))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tracker.Restore(devices)
	d.restored = true
	if d.scan != nil {
		d.applyScan(ctx)
	}
	return nil
}

// resources are all devices as they are to be published, and a channel that is closed
// when they may have changed. A node without tokens has a slice too: its driver runs.
func (d *Driver) resources() (resources resourceslice.DriverResources, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	devices := []resourcev1.Device{}
	for _, device := range d.tracker.Devices() {
		if device.Lost.IsZero() || !d.withoutTaints {
			devices = append(devices, toSlice(device))
		}
	}
	pool := resourceslice.Pool{Slices: []resourceslice.Slice{{}}}
	if len(devices) > 0 {
		pool.Slices = nil
	}
	for chunk := range slices.Chunk(devices, resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures) {
		pool.Slices = append(pool.Slices, resourceslice.Slice{Devices: chunk})
	}
	return resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{d.config.Node: pool}}, d.changed
}

// toSlice is a device as it is published.
func toSlice(device allocatable.Device) resourcev1.Device {
	published := resourcev1.Device{Name: device.Name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{}}
	for name, value := range device.Attributes {
		published.Attributes[resourcev1.QualifiedName(name)] = resourcev1.DeviceAttribute{StringValue: &value}
	}
	if !device.Lost.IsZero() {
		since := metav1.NewTime(device.Lost)
		published.Taints = []resourcev1.DeviceTaint{{Key: TaintUnusable, Effect: resourcev1.DeviceTaintEffectNoExecute, TimeAdded: &since}}
	}
	return published
}

// fromSlice is the opposite of toSlice.
func fromSlice(published resourcev1.Device) allocatable.Device {
	device := allocatable.Device{Name: published.Name, Attributes: map[string]string{}}
	for name, value := range published.Attributes {
		if value.StringValue != nil {
			device.Attributes[string(name)] = *value.StringValue
		}
	}
	for _, taint := range published.Taints {
		if taint.Key == TaintUnusable && taint.TimeAdded != nil {
			device.Lost = taint.TimeAdded.UTC()
		}
	}
	return device
}
