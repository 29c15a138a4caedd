// SPDX-License-Identifier: Apache-2.0

// Package hsmsecret gives HSMSecrets their REST semantics: those of a core
// Secret, with a generation, a status and an address on the token. It never reads
// or writes a token.
package hsmsecret

import (
	"context"
	"crypto/tls"
	"fmt"

	corev1 "k8s.io/api/core/v1"
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

// strategy is for writes of everything but status. Its declarative validation
// runs the rules that are tags on the versioned types.
type strategy struct {
	declarative.Validation
	names.NameGenerator
}

func newStrategy(scheme *runtime.Scheme) strategy {
	return strategy{declarative.Validation{Scheme: scheme}, names.SimpleNameGenerator}
}

func (strategy) NamespaceScoped() bool { return true }

// AllowCreateOnUpdate and AllowUnconditionalUpdate are as for a core Secret.
func (strategy) AllowCreateOnUpdate(context.Context) bool      { return false }
func (strategy) AllowUnconditionalUpdate(context.Context) bool { return true }

func (strategy) Canonicalize(runtime.Object) {}

// GetResetFields names what a write of this resource does not change, so that
// server-side apply gives nobody the ownership of it.
func (strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields(fieldpath.MakePathOrDie("status"))
}

func resetFields(paths ...fieldpath.Path) map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(v1alpha1.SchemeGroupVersion.String()): fieldpath.NewSet(paths...),
	}
}

func (strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	secret := obj.(*hsm.HSMSecret)
	secret.Status = hsm.HSMSecretStatus{HSMPath: secret.Path()}
	secret.Generation = 1
}

func (strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	secret, oldSecret := obj.(*hsm.HSMSecret), old.(*hsm.HSMSecret)
	secret.Status = oldSecret.Status
	// Server-side apply by kubectl writes it after conversion has blanked it.
	secret.Annotations = v1alpha1.WithBlankLastApplied(secret.Annotations)
	// It cannot change: a client that does not know it means the one there is.
	if secret.Spec.HSMPath == "" && secret.Path() != oldSecret.Path() {
		secret.Spec.HSMPath = oldSecret.Spec.HSMPath
	}
	if desiredStateChanged(secret, oldSecret) {
		secret.Generation = oldSecret.Generation + 1
	}
}

// desiredStateChanged reports whether the controller has anything to do: then the
// generation goes up.
func desiredStateChanged(secret, old *hsm.HSMSecret) bool {
	return !equality.Semantic.DeepEqual(withDefaults(secret), withDefaults(old)) ||
		!equality.Semantic.DeepEqual(secret.Data, old.Data) ||
		!equality.Semantic.DeepEqual(secret.Immutable, old.Immutable)
}

// withDefaults returns the spec with the defaults that follow from the object's name.
func withDefaults(secret *hsm.HSMSecret) hsm.HSMSecretSpec {
	spec := secret.Spec
	spec.HSMPath, spec.SecretName = secret.Path(), secret.SecretName()
	return spec
}

func (strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateHSMSecret(obj.(*hsm.HSMSecret))
}

func (strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateHSMSecretUpdate(obj.(*hsm.HSMSecret), old.(*hsm.HSMSecret))
}

func (strategy) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	secret := obj.(*hsm.HSMSecret)
	warnings := append(warnOfKeyPair(secret), warnOfLastApplied(secret, &hsm.HSMSecret{})...)
	if secret.Spec.HSMPath != "" && len(secret.Data) == 0 {
		// As in manifests of the operator before this one: there it meant what is on the
		// token. Without a path it may as well be an empty secret, as core ones may be.
		warnings = append(warnings, "data: there is none, so the secret is empty; an HSMSecret brings its values, see docs/migration.md for manifests of the older operator")
	}
	return warnings
}

func (strategy) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	secret := obj.(*hsm.HSMSecret)
	return append(warnOfKeyPair(secret), warnOfLastApplied(secret, old.(*hsm.HSMSecret))...)
}

// warnOfKeyPair does so as a core Secret does.
func warnOfKeyPair(secret *hsm.HSMSecret) []string {
	if secret.Spec.SecretType != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// warnOfLastApplied tells the user of kubectl apply, once for each new
// configuration, that conversion has blanked it.
func warnOfLastApplied(secret, old *hsm.HSMSecret) []string {
	lastApplied, ok := secret.Annotations[corev1.LastAppliedConfigAnnotation]
	if !ok || lastApplied == old.Annotations[corev1.LastAppliedConfigAnnotation] {
		return nil
	}
	return []string{"metadata.annotations[" + corev1.LastAppliedConfigAnnotation +
		"]: the values in it are not stored; use kubectl apply --server-side, which sends no such annotation"}
}

// blindStrategy is for updates by users who may not see values: no warning depends on
// a value.
type blindStrategy struct{ strategy }

func (blindStrategy) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	return warnOfLastApplied(obj.(*hsm.HSMSecret), old.(*hsm.HSMSecret))
}

// statusStrategy is for writes of status.
type statusStrategy struct{ strategy }

// GetResetFields also names the fields of status that the server itself writes.
func (statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields(
		fieldpath.MakePathOrDie("metadata", "labels"),
		fieldpath.MakePathOrDie("metadata", "annotations"),
		fieldpath.MakePathOrDie("metadata", "finalizers"),
		fieldpath.MakePathOrDie("metadata", "ownerReferences"),
		fieldpath.MakePathOrDie("spec"),
		fieldpath.MakePathOrDie("data"),
		fieldpath.MakePathOrDie("stringData"),
		fieldpath.MakePathOrDie("immutable"),
		fieldpath.MakePathOrDie("status", "hsmPath"),
		fieldpath.MakePathOrDie("status", "dataVersion"),
		fieldpath.MakePathOrDie("status", "deviceSyncStatus"),
		fieldpath.MakePathOrDie("status", "primaryDevice"),
	)
}

// PrepareForUpdate keeps all but status and who owns its fields.
func (statusStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	secret, oldSecret := obj.(*hsm.HSMSecret), old.(*hsm.HSMSecret)
	status, managedFields := secret.Status, secret.ManagedFields
	oldSecret.DeepCopyInto(secret)
	secret.ManagedFields = managedFields
	status.HSMPath = oldSecret.Status.HSMPath
	status.DataVersion = oldSecret.Status.DataVersion
	status.DeviceSyncStatus = oldSecret.Status.DeviceSyncStatus
	status.PrimaryDevice = oldSecret.Status.PrimaryDevice
	secret.Status = status
}

func (statusStrategy) ValidateUpdate(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	return validation.ValidateHSMSecretStatusUpdate(obj.(*hsm.HSMSecret))
}

func (statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// GetAttrs returns the labels and fields by which an HSMSecret is selected.
func GetAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	secret, ok := obj.(*hsm.HSMSecret)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not an HSMSecret", obj)
	}
	return secret.Labels, generic.AddObjectMetaFieldsSet(fields.Set{
		hsm.HSMPathField:    secret.Path(),
		hsm.SecretNameField: secret.SecretName(),
		hsm.SecretTypeField: string(secret.Spec.SecretType),
	}, &secret.ObjectMeta, true), nil
}

func match(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: GetAttrs}
}
