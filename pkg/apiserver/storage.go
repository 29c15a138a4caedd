// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/flowcontrol/request"
)

// restOptions decides where each resource is stored. It implements
// generic.RESTOptionsGetter.
type restOptions struct {
	codec      runtime.Codec
	decorators map[schema.GroupResource]generic.StorageDecorator
	tracker    request.StorageObjectCountTracker
}

func (o *restOptions) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	decorator, ok := o.decorators[resource]
	if !ok {
		return generic.RESTOptions{}, fmt.Errorf("no storage is set up for %s", resource)
	}
	return generic.RESTOptions{
		StorageConfig: &storagebackend.ConfigForResource{
			GroupResource: resource,
			Config:        storagebackend.Config{Codec: o.codec},
		},
		Decorator:                 decorator,
		EnableGarbageCollection:   true,
		DeleteCollectionWorkers:   1,
		ResourcePrefix:            resourcePrefix(resource),
		CountMetricPollPeriod:     time.Minute,
		StorageObjectCountTracker: o.tracker,
	}, nil
}

// resourcePrefix begins the keys of a resource; a "/" is set before it.
func resourcePrefix(resource schema.GroupResource) string {
	return resource.Group + "/" + resource.Resource
}
