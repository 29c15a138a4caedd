// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"

	"j5t.io/hsm/pkg/discovery/dra/attribute"
)

// PrepareResourceClaims implements kubeletplugin.DRAPlugin: it writes a CDI file for each
// claim.
func (d *Driver) PrepareResourceClaims(ctx context.Context, claims []*resourcev1.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		devices, err := d.prepare(ctx, claim)
		results[claim.UID] = kubeletplugin.PrepareResult{Devices: devices, Err: err}
	}
	return results, nil
}

func (d *Driver) prepare(ctx context.Context, claim *resourcev1.ResourceClaim) ([]kubeletplugin.Device, error) {
	for _, config := range claim.Status.Allocation.Devices.Config {
		if config.Opaque != nil && config.Opaque.Driver == attribute.Driver {
			return nil, fmt.Errorf("the driver %s takes no parameters", attribute.Driver)
		}
	}
	var prepared []kubeletplugin.Device
	paths := map[string]string{}
	for _, result := range claim.Status.Allocation.Devices.Results {
		if result.Driver != attribute.Driver {
			continue
		}
		path, err := d.path(ctx, claim.UID, result)
		if err != nil {
			return nil, err
		}
		paths[result.Device] = path
		prepared = append(prepared, kubeletplugin.Device{
			Requests:     []string{result.Request},
			PoolName:     result.Pool,
			DeviceName:   result.Device,
			CDIDeviceIDs: []string{cdiID(claim.UID, result.Device)},
		})
	}
	if err := d.cdi.write(claim.UID, paths); err != nil {
		return nil, err
	}
	return prepared, nil
}

// path returns the device file of an allocated device, which must be free.
func (d *Driver) path(ctx context.Context, claim types.UID, result resourcev1.DeviceRequestAllocationResult) (string, error) {
	if result.Pool != d.config.Node {
		return "", fmt.Errorf("device %s is in pool %s, not on this node, %s", result.Device, result.Pool, d.config.Node)
	}
	device, known := d.tracker.Device(result.Device)
	if !known {
		return "", fmt.Errorf("this node has no device %s", result.Device)
	}
	if device.Path == "" {
		return "", fmt.Errorf("device %s cannot be used now: the token was unplugged, or discovery's report has another reason", result.Device)
	}
	holder, err := d.cdi.holder(ctx, result.Device)
	if err != nil {
		return "", err
	}
	if holder != "" && holder != claim {
		return "", fmt.Errorf("device %s is in use by the claim with the uid %s", result.Device, holder)
	}
	return device.Path, nil
}

// UnprepareResourceClaims implements kubeletplugin.DRAPlugin: it removes the CDI files.
func (d *Driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	results := map[types.UID]error{}
	for _, claim := range claims {
		results[claim.UID] = d.cdi.remove(claim.UID)
	}
	return results, nil
}
