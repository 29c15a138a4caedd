// SPDX-License-Identifier: Apache-2.0

// Package declarative runs the validation rules that are tags on the API types.
// It holds no rule of its own.
package declarative

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Validation adds declarative validation to the strategy that embeds it. Unlike
// rest.DeclarativeValidation it does not compare the errors of tags with those of
// functions: it is for types on which the two do not overlap. Metadata is left to
// functions.
type Validation struct {
	*runtime.Scheme
}

var _ rest.DeclarativeValidationStrategy = Validation{}

// DeclarativeValidationConfig is empty: no tag names an option.
func (Validation) DeclarativeValidationConfig(context.Context, runtime.Object, runtime.Object) rest.DeclarativeValidationConfig {
	return rest.DeclarativeValidationConfig{}
}

// ValidateDeclaratively adds the errors of the tags, on the type of the request's
// version, to those of the functions.
func (v Validation) ValidateDeclaratively(ctx context.Context, obj, old runtime.Object, errs field.ErrorList, op operation.Type, config rest.DeclarativeValidationConfig) field.ErrorList {
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	if !ok {
		return append(errs, field.InternalError(nil, errors.New("the request has no RequestInfo")))
	}
	version := schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
	var subresources []string
	if info.Subresource != "" {
		subresources = []string{info.Subresource}
	}

	obj, err := v.ConvertToVersion(obj, version)
	if err != nil {
		return append(errs, field.InternalError(nil, fmt.Errorf("converting the object to %s: %w", version, err)))
	}
	if op == operation.Create {
		return append(errs, v.Validate(ctx, config.Options, obj, subresources...)...)
	}
	old, err = v.ConvertToVersion(old, version)
	if err != nil {
		return append(errs, field.InternalError(nil, fmt.Errorf("converting the old object to %s: %w", version, err)))
	}
	return append(errs, v.ValidateUpdate(ctx, config.Options, obj, old, subresources...)...)
}
