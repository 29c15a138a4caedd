// SPDX-License-Identifier: Apache-2.0

package hsmpool

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/registry/hsm/status"
)

// REST serves hsmpools.
type REST struct {
	*genericregistry.Store
}

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
)

// NewStorage returns the storage of hsmpools and of their status.
func NewStorage(scheme *runtime.Scheme, options generic.RESTOptionsGetter) (*REST, *status.REST, error) {
	strategy := newStrategy(scheme)
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &hsm.HSMPool{} },
		NewListFunc:               func() runtime.Object { return &hsm.HSMPoolList{} },
		PredicateFunc:             match,
		DefaultQualifiedResource:  hsm.Resource("hsmpools"),
		SingularQualifiedResource: hsm.Resource("hsmpool"),

		CreateStrategy:      strategy,
		UpdateStrategy:      strategy,
		DeleteStrategy:      strategy,
		ResetFieldsStrategy: strategy,

		TableConvertor: tableConvertor,
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options, AttrFunc: GetAttrs}); err != nil {
		return nil, nil, err
	}
	return &REST{store}, status.New(store, statusStrategy{strategy}), nil
}

// ShortNames are what kubectl accepts in place of hsmpools.
func (*REST) ShortNames() []string { return []string{"hsmpool"} }
