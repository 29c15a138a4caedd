// SPDX-License-Identifier: Apache-2.0

// Package hsmdevice gives HSMDevices their REST semantics: a spec with a
// generation, and no status. It never looks for devices.
package hsmdevice

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

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/validation"
	"j5t.io/hsm/pkg/registry/hsm/declarative"
)

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

func (strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	obj.(*hsm.HSMDevice).Generation = 1
}

func (strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	device, oldDevice := obj.(*hsm.HSMDevice), old.(*hsm.HSMDevice)
	if !equality.Semantic.DeepEqual(device.Spec, oldDevice.Spec) {
		device.Generation = oldDevice.Generation + 1
	}
}

func (strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateHSMDevice(obj.(*hsm.HSMDevice))
}

func (strategy) ValidateUpdate(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	return validation.ValidateHSMDevice(obj.(*hsm.HSMDevice))
}

func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }

func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// GetAttrs returns the labels and fields by which an HSMDevice is selected.
func GetAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	device, ok := obj.(*hsm.HSMDevice)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not an HSMDevice", obj)
	}
	return device.Labels, generic.ObjectMetaFieldsSet(&device.ObjectMeta, true), nil
}

func match(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: GetAttrs}
}
