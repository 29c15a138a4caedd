// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/registry/hsm/status"
)

// REST serves hsmsecrets.
type REST struct {
	*genericregistry.Store
	authorizer authorizer.Authorizer
}

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
)

// NewStorage returns the storage of hsmsecrets and of their status. The
// authorizer decides who may claim a path outside of the namespace's own.
func NewStorage(scheme *runtime.Scheme, options generic.RESTOptionsGetter, auth authorizer.Authorizer) (*REST, *status.REST, error) {
	strategy := newStrategy(scheme)
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &hsm.HSMSecret{} },
		NewListFunc:               func() runtime.Object { return &hsm.HSMSecretList{} },
		PredicateFunc:             match,
		DefaultQualifiedResource:  hsm.Resource("hsmsecrets"),
		SingularQualifiedResource: hsm.Resource("hsmsecret"),

		CreateStrategy:      strategy,
		UpdateStrategy:      strategy,
		DeleteStrategy:      strategy,
		ResetFieldsStrategy: strategy,

		TableConvertor: tableConvertor,
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options, AttrFunc: GetAttrs}); err != nil {
		return nil, nil, err
	}
	return &REST{Store: store, authorizer: auth}, status.New(store, statusStrategy{strategy}), nil
}

// ShortNames are what kubectl accepts in place of hsmsecrets.
func (*REST) ShortNames() []string { return []string{"hsmsec"} }

// Create also refuses a path that the user may not claim.
func (r *REST) Create(ctx context.Context, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	return r.Store.Create(ctx, obj, requireClaim(r.authorizer, createValidation), options)
}

// Update also refuses a path that the user may not claim: server-side apply
// creates through it.
func (r *REST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.Store.Update(ctx, name, info, requireClaim(r.authorizer, createValidation), updateValidation, forceAllowCreate, options)
}
