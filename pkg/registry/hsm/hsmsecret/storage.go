// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/registry/hsm/status"
)

// REST serves hsmsecrets. It hides their values from users who may not see them.
type REST struct {
	*genericregistry.Store
	// blind is the same store, for the updates of users who may not see values.
	blind *genericregistry.Store
	// ordered is the same store, for deletions of a collection that stop at the first
	// HSMSecret that does not meet their preconditions.
	ordered    *genericregistry.Store
	authorizer authorizer.Authorizer
	values     values
}

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
)

// deleteCollectionWorkers is how many HSMSecrets one request deletes at a time. The
// agent makes the deletes that wait while the token is busy one commit: the more of
// them, the fewer writes of flash.
const deleteCollectionWorkers = 64

// NewStorage returns the storage of hsmsecrets and of their status. The
// authorizer decides who may see values, and who may claim a path outside of the
// namespace's own.
func NewStorage(scheme *runtime.Scheme, options generic.RESTOptionsGetter, auth authorizer.Authorizer) (*REST, *StatusREST, error) {
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

		DeleteCollectionWorkers: deleteCollectionWorkers,
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options, AttrFunc: GetAttrs}); err != nil {
		return nil, nil, err
	}
	blind := *store
	blind.UpdateStrategy = blindStrategy{strategy}
	ordered := *store
	ordered.DeleteCollectionWorkers = 1
	values := values{auth}
	return &REST{Store: store, blind: &blind, ordered: &ordered, authorizer: auth, values: values},
		&StatusREST{REST: status.New(store, statusStrategy{strategy}), values: values}, nil
}

// ShortNames are what kubectl accepts in place of hsmsecrets.
func (*REST) ShortNames() []string { return []string{"hsmsec"} }

// Get reads an HSMSecret.
func (r *REST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	ctx, err := r.values.forRead(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.Store.Get(ctx, name, options)
}

// List reads HSMSecrets.
func (r *REST) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	ctx, err := r.values.forRead(ctx, selectedName(options))
	if err != nil {
		return nil, err
	}
	return r.Store.List(ctx, options)
}

// Watch follows HSMSecrets. Who may see values is decided once, at its begin.
func (r *REST) Watch(ctx context.Context, options *metainternalversion.ListOptions) (watch.Interface, error) {
	ctx, err := r.values.forRead(ctx, selectedName(options))
	if err != nil {
		return nil, err
	}
	return r.Store.Watch(ctx, options)
}

// Create also refuses a path that the user may not claim, and a template that the user may
// not set.
func (r *REST) Create(ctx context.Context, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	hidden, err := r.values.hidden(ctx, obj.(*hsm.HSMSecret).Name)
	if err != nil {
		return nil, err
	}
	created, err := r.Store.Create(ctx, obj, requireClaim(r.authorizer, requireSecretsOnCreate(r.authorizer, createValidation)), options)
	if hidden {
		hideValues(created)
	}
	return created, err
}

// Update also refuses a path that the user may not claim, as server-side apply
// creates through it, and a change of values that the user may not see.
func (r *REST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	hidden, err := r.values.hidden(ctx, name)
	if err != nil {
		return nil, false, err
	}
	store := r.Store
	if hidden {
		store, info = r.blind, blindUpdate{UpdatedObjectInfo: info}
	}
	createValidation = requireClaim(r.authorizer, requireSecretsOnCreate(r.authorizer, createValidation))
	updateValidation = requireSecretsOnUpdate(r.authorizer, updateValidation)
	obj, created, err := store.Update(ctx, name, info, createValidation, updateValidation, forceAllowCreate, options)
	if hidden {
		hideValues(obj)
	}
	return obj, created, err
}

// Delete removes an HSMSecret. One that waits for finalizers is the answer.
func (r *REST) Delete(ctx context.Context, name string, deleteValidation rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	hidden, err := r.values.hidden(ctx, name)
	if err != nil {
		return nil, false, err
	}
	obj, deleted, err := r.Store.Delete(ctx, name, deleteValidation, options)
	if hidden {
		hideValues(obj)
	}
	return obj, deleted, err
}

// DeleteCollection removes HSMSecrets, which are the answer.
func (r *REST) DeleteCollection(ctx context.Context, deleteValidation rest.ValidateObjectFunc, options *metav1.DeleteOptions, listOptions *metainternalversion.ListOptions) (runtime.Object, error) {
	hidden, err := r.values.hidden(ctx, selectedName(listOptions))
	if err != nil {
		return nil, err
	}
	store := r.Store
	if options != nil && options.Preconditions != nil {
		store = r.ordered
	}
	list, err := store.DeleteCollection(ctx, deleteValidation, options, listOptions)
	if hidden {
		hideValues(list)
	}
	return list, err
}
