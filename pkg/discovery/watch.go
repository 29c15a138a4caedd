// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/informers/externalversions"
)

// watch follows HSMDevices, HSMPools and the labels of the node. It returns the informers
// that must be synced before anything is reported; pools only say how often to report.
func (d *Discovery) watch(ctx context.Context, group *wait.Group) ([]cache.DoneChecker, error) {
	factory := externalversions.NewSharedInformerFactoryWithOptions(d.config.HSM, 0, externalversions.WithTransform(trim))
	hsmDevices := factory.Hsm().V1alpha1().HSMDevices()
	pools := factory.Hsm().V1alpha1().HSMPools()
	d.hsmDevices, d.pools = hsmDevices.Lister(), pools.Lister()
	node := d.nodeInformer()
	d.nodes = node.GetStore()

	if _, err := hsmDevices.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { d.notify() },
		UpdateFunc: func(any, any) { d.notify() },
		DeleteFunc: func(any) { d.notify() },
	}); err != nil {
		return nil, fmt.Errorf("follow HSMDevices: %w", err)
	}
	if _, err := node.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			// A node's status changes all the time.
			if !maps.Equal(before.(*metav1.PartialObjectMetadata).Labels, after.(*metav1.PartialObjectMetadata).Labels) {
				d.notify()
			}
		},
	}); err != nil {
		return nil, fmt.Errorf("follow the node: %w", err)
	}
	factory.StartWithContext(ctx)
	group.Start(factory.Shutdown)
	group.StartWithContext(ctx, node.RunWithContext)
	return []cache.DoneChecker{hsmDevices.Informer().HasSyncedChecker(), node.HasSyncedChecker()}, nil
}

// nodeInformer follows the metadata of this one node.
func (d *Discovery) nodeInformer() cache.SharedIndexInformer {
	nodes := d.config.Metadata.Resource(corev1.SchemeGroupVersion.WithResource("nodes"))
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, d.config.Node).String()
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = only
			return nodes.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = only
			return nodes.Watch(ctx, options)
		},
	}, d.config.Metadata), &metav1.PartialObjectMetadata{}, 0, cache.Indexers{})
}

// node returns the metadata of this node.
func (d *Discovery) node() (*metav1.PartialObjectMetadata, error) {
	object, found, err := d.nodes.GetByKey(d.config.Node)
	if err != nil {
		return nil, fmt.Errorf("look up node %s: %w", d.config.Node, err)
	}
	if !found {
		return nil, fmt.Errorf("there is no node %s; is --node-name right?", d.config.Node)
	}
	return object.(*metav1.PartialObjectMetadata), nil
}

// trim drops what discovery does not read and would keep in memory: who manages which
// field, and the status of pools.
func trim(object any) (any, error) {
	if meta, ok := object.(metav1.Object); ok {
		meta.SetManagedFields(nil)
	}
	if pool, ok := object.(*v1alpha1.HSMPool); ok {
		pool.Status = v1alpha1.HSMPoolStatus{}
	}
	return object, nil
}
