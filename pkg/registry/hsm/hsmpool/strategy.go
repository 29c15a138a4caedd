// SPDX-License-Identifier: Apache-2.0

// Package hsmpool gives HSMPools their REST semantics: a spec with a generation,
// and a status apart from it. It never speaks with agents.
package hsmpool

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/apis/hsm/validation"
	"j5t.io/hsm/pkg/registry/hsm/declarative"
)

// strategy is for writes of everything but status.
type strategy struct {
	declarative.Validation
	names.NameGenerator
}

func newStrategy(scheme *runtime.Scheme) strategy {
	return strategy{declarative.Validation{Scheme: scheme}, names.SimpleNameGenerator}
}

func (strategy) NamespaceScoped() bool { return true }

// AllowCreateOnUpdate and AllowUnconditionalUpdate are as for a custom resource.
func (strategy) AllowCreateOnUpdate(context.Context) bool      { return false }
func (strategy) AllowUnconditionalUpdate(context.Context) bool { return false }

func (strategy) Canonicalize(runtime.Object) {}

// GetResetFields names what a write of this resource does not change.
func (strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields(fieldpath.MakePathOrDie("status"))
}

func resetFields(paths ...fieldpath.Path) map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(v1alpha1.SchemeGroupVersion.String()): fieldpath.NewSet(paths...),
	}
}

func (strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	pool := obj.(*hsm.HSMPool)
	pool.Status = hsm.HSMPoolStatus{}
	pool.Generation = 1
}

func (strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	pool, oldPool := obj.(*hsm.HSMPool), old.(*hsm.HSMPool)
	pool.Status = oldPool.Status
	if !equality.Semantic.DeepEqual(pool.Spec, oldPool.Spec) {
		pool.Generation = oldPool.Generation + 1
	}
}

func (strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateHSMPool(obj.(*hsm.HSMPool))
}

func (strategy) ValidateUpdate(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	return validation.ValidateHSMPool(obj.(*hsm.HSMPool))
}

func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }

func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// statusStrategy is for writes of status.
type statusStrategy struct{ strategy }

// GetResetFields names what a write of the status does not change.
func (statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields(
		fieldpath.MakePathOrDie("metadata", "labels"),
		fieldpath.MakePathOrDie("metadata", "annotations"),
		fieldpath.MakePathOrDie("metadata", "finalizers"),
		fieldpath.MakePathOrDie("metadata", "ownerReferences"),
		fieldpath.MakePathOrDie("spec"),
	)
}

// PrepareForUpdate keeps all but status and who owns its fields.
func (statusStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	pool, oldPool := obj.(*hsm.HSMPool), old.(*hsm.HSMPool)
	status, managedFields := pool.Status, pool.ManagedFields
	oldPool.DeepCopyInto(pool)
	pool.Status, pool.ManagedFields = status, managedFields
}

func (statusStrategy) ValidateUpdate(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	return validation.ValidateHSMPoolStatusUpdate(obj.(*hsm.HSMPool))
}

// GetAttrs returns the labels and fields by which an HSMPool is selected.
func GetAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	pool, ok := obj.(*hsm.HSMPool)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not an HSMPool", obj)
	}
	return pool.Labels, generic.ObjectMetaFieldsSet(&pool.ObjectMeta, true), nil
}

func match(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: GetAttrs}
}
