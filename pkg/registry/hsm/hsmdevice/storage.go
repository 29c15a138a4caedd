// SPDX-License-Identifier: Apache-2.0

package hsmdevice

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
)

// REST serves hsmdevices.
type REST struct {
	*genericregistry.Store
}

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
)

// NewStorage returns the storage of hsmdevices.
func NewStorage(scheme *runtime.Scheme, options generic.RESTOptionsGetter) (*REST, error) {
	strategy := newStrategy(scheme)
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &hsm.HSMDevice{} },
		NewListFunc:               func() runtime.Object { return &hsm.HSMDeviceList{} },
		PredicateFunc:             match,
		DefaultQualifiedResource:  hsm.Resource("hsmdevices"),
		SingularQualifiedResource: hsm.Resource("hsmdevice"),

		CreateStrategy: strategy,
		UpdateStrategy: strategy,
		DeleteStrategy: strategy,

		TableConvertor: tableConvertor,
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options, AttrFunc: GetAttrs}); err != nil {
		return nil, err
	}
	return &REST{store}, nil
}

// ShortNames are what kubectl accepts in place of hsmdevices.
func (*REST) ShortNames() []string { return []string{"hsmdev"} }
