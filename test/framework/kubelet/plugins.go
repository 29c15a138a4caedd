// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/discovery/deviceplugin/deviceplugintest"
)

// devicePlugins are those of a node: what they offer is in the Node, and pods are given it.
type devicePlugins struct {
	kubelet *Kubelet

	mutex sync.Mutex
	// resources have the plugin that registered last; offered are its devices, and whether
	// they are healthy.
	resources map[string]*deviceplugintest.Plugin
	offered   map[string]map[string]bool
	// allocated are what pods have. A pod keeps it until it is removed.
	allocated map[types.UID][]Allocation
	// change signals that the Node has to be updated.
	change chan struct{}
}

// Allocation is what a container was given by a device plugin.
type Allocation struct {
	Container, Resource, Device string
	// Paths are the device files.
	Paths []string
}

// Allocations are what the containers of a pod of the node were given by device plugins.
func (k *Kubelet) Allocations(pod types.UID) []Allocation {
	k.plugins.mutex.Lock()
	defer k.plugins.mutex.Unlock()
	return slices.Clone(k.plugins.allocated[pod])
}

// servePlugins takes registrations until the node ends.
func (k *Kubelet) servePlugins(life context.Context) (*devicePlugins, error) {
	server, err := deviceplugintest.Start(filepath.Join(k.dir(), deviceplugintest.Folder))
	if err != nil {
		return nil, err
	}
	d := &devicePlugins{
		kubelet: k, resources: map[string]*deviceplugintest.Plugin{}, offered: map[string]map[string]bool{},
		allocated: map[types.UID][]Allocation{}, change: make(chan struct{}, 1),
	}
	k.group.Go(func() {
		defer server.Stop()
		for {
			select {
			case <-life.Done():
				return
			case plugin := <-server.Plugins():
				k.group.Go(func() { d.follow(life, plugin) })
			}
		}
	})
	k.group.Go(func() { d.report(life) })
	return d, nil
}

// follow reads what a plugin offers, until its end.
func (d *devicePlugins) follow(life context.Context, plugin *deviceplugintest.Plugin) {
	defer context.AfterFunc(life, plugin.Close)()
	defer plugin.Close()
	d.mutex.Lock()
	d.resources[plugin.Resource] = plugin
	d.mutex.Unlock()
	for {
		devices, err := plugin.Next()
		d.mutex.Lock()
		if d.resources[plugin.Resource] == plugin { // Else another has taken its place.
			d.offered[plugin.Resource] = devices
		}
		d.mutex.Unlock()
		select {
		case d.change <- struct{}{}:
		default: // It is to be reported already.
		}
		if err != nil {
			return
		}
	}
}

// report writes to the Node how many devices there are, and how many are healthy, whenever that
// changes. Of a resource that is offered no more it says 0, as kubelet does.
func (d *devicePlugins) report(life context.Context) {
	for {
		select {
		case <-life.Done():
			return
		case <-d.change:
		}
		for !d.reported(life) {
			select {
			case <-life.Done():
				return
			case <-time.After(retryInterval):
			}
		}
	}
}

func (d *devicePlugins) reported(ctx context.Context) bool {
	capacity, allocatable := map[string]string{}, map[string]string{}
	d.mutex.Lock()
	for resource, devices := range d.offered {
		healthy := 0
		for _, is := range devices {
			if is {
				healthy++
			}
		}
		capacity[resource], allocatable[resource] = strconv.Itoa(len(devices)), strconv.Itoa(healthy)
	}
	d.mutex.Unlock()
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"capacity": capacity, "allocatable": allocatable}})
	if err == nil {
		_, err = d.kubelet.client.CoreV1().Nodes().Patch(ctx, d.kubelet.Node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil && ctx.Err() == nil {
		klog.ErrorS(err, "Cannot write to the Node what device plugins offer", "node", d.kubelet.Node)
	}
	return err == nil
}

// allocate gives the containers of a pod what they ask for, unless they have it.
func (d *devicePlugins) allocate(ctx context.Context, object *corev1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, driverTimeout)
	defer cancel()
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for _, container := range allContainers(object) {
		for resource, quantity := range container.Resources.Limits {
			if !strings.Contains(string(resource), "/") {
				continue
			}
			has := 0
			for _, allocation := range d.allocated[object.UID] {
				if allocation.Container == container.Name && allocation.Resource == string(resource) {
					has++
				}
			}
			for ; int64(has) < quantity.Value(); has++ {
				allocation, err := d.allocateOne(ctx, container.Name, string(resource))
				if err != nil {
					return fmt.Errorf("container %s: %w", container.Name, err)
				}
				d.allocated[object.UID] = append(d.allocated[object.UID], allocation)
			}
		}
	}
	return nil
}

// allocateOne takes a healthy device that no pod has. The caller has locked.
func (d *devicePlugins) allocateOne(ctx context.Context, container, resource string) (Allocation, error) {
	taken := map[string]bool{}
	for _, allocations := range d.allocated {
		for _, allocation := range allocations {
			if allocation.Resource == resource {
				taken[allocation.Device] = true
			}
		}
	}
	for device, healthy := range d.offered[resource] {
		if !healthy || taken[device] {
			continue
		}
		paths, err := d.resources[resource].Allocate(ctx, device)
		return Allocation{Container: container, Resource: resource, Device: device, Paths: paths}, err
	}
	return Allocation{}, fmt.Errorf("no device of %s is free", resource)
}

// free takes back what a pod has.
func (d *devicePlugins) free(pod types.UID) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	delete(d.allocated, pod)
}
