// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/registry/hsm/status"
)

// StatusREST serves the status of hsmsecrets, which comes with the whole object.
type StatusREST struct {
	*status.REST
	values values
}

var _ rest.Patcher = &StatusREST{}

// Get reads the object, without values if the user may not see them.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	ctx, err := r.values.forRead(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.REST.Get(ctx, name, options)
}

// Update changes the status only. It hides values from users who may not see them.
func (r *StatusREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	hidden, err := r.values.hidden(ctx, name)
	if err != nil {
		return nil, false, err
	}
	if !hidden {
		return r.REST.Update(ctx, name, info, createValidation, updateValidation, forceAllowCreate, options)
	}
	info = blindUpdate{UpdatedObjectInfo: info, ignoresData: true}
	obj, created, err := r.REST.Update(ctx, name, info, createValidation, updateValidation, forceAllowCreate, options)
	hideValues(obj)
	return obj, created, err
}
