// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"j5t.io/hsm/pkg/apis/hsm"
)

// ValidateHSMSecret tests an HSMSecret before it is created. No error shows a value of
// data.
func ValidateHSMSecret(secret *hsm.HSMSecret) field.ErrorList {
	errs := validateHSMSecret(secret)
	if secret.Spec.SecretType == corev1.SecretTypeServiceAccountToken {
		// kube-controller-manager would write a new token into the Secret whenever its data is
		// another, and delete the Secret if there is no such ServiceAccount. And whoever may
		// create and read HSMSecrets would get a token of any ServiceAccount of the namespace.
		errs = append(errs, field.Forbidden(field.NewPath("spec", "secretType"),
			"Kubernetes itself writes Secrets of type "+string(secret.Spec.SecretType)+": create a core Secret, or use kubectl create token"))
	}
	return errs
}

func validateHSMSecret(secret *hsm.HSMSecret) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&secret.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, validateFinalizers(secret.Finalizers, field.NewPath("metadata", "finalizers"))...)
	if secret.Spec.HSMPath != "" { // The default is right if the name is.
		errs = append(errs, validateHSMPath(secret.Spec.HSMPath, field.NewPath("spec", "hsmPath"))...)
	}
	errs = append(errs, validateTemplate(secret.Spec.Template, field.NewPath("spec", "template"))...)
	errs = append(errs, validateData(secret.Data, field.NewPath("data"))...)
	errs = append(errs, validateRequiredKeys(secret)...)
	return errs
}

// ValidateHSMSecretUpdate tests an HSMSecret before it replaces another.
func ValidateHSMSecretUpdate(secret, old *hsm.HSMSecret) field.ErrorList {
	errs := validateHSMSecret(secret)
	// The default may be set, and a path that is the default be left out.
	if secret.Path() != old.Path() {
		errs = append(errs, field.Invalid(field.NewPath("spec", "hsmPath"), secret.Path(), "field is immutable"))
	}
	if old.Immutable == nil || !*old.Immutable {
		return errs
	}
	// As for a core Secret.
	if secret.Immutable == nil || !*secret.Immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), "cannot be unset: delete the object and create it again"))
	}
	if !equality.Semantic.DeepEqual(secret.Data, old.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), "cannot be changed while immutable is true: delete the object and create it again"))
	}
	return errs
}

// ValidateHSMSecretStatusUpdate tests a status before it replaces another.
func ValidateHSMSecretStatusUpdate(secret *hsm.HSMSecret) field.ErrorList {
	return metav1validation.ValidateConditions(secret.Status.Conditions, field.NewPath("status", "conditions"))
}

// validateFinalizers tests what the API server tests for a core Secret, and the
// API machinery does not: only Kubernetes' own finalizers have no domain.
func validateFinalizers(finalizers []string, fldPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range finalizers {
		switch {
		case strings.Contains(name, "/"):
		case name == string(corev1.FinalizerKubernetes), name == metav1.FinalizerOrphanDependents, name == metav1.FinalizerDeleteDependents:
		default:
			errs = append(errs, field.Invalid(fldPath.Index(i), name, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// validateHSMPath tests the syntax of a path. A tag limits its length.
func validateHSMPath(path string, fldPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" {
			errs = append(errs, field.Invalid(fldPath, path, "must not begin or end with '/', and must have no empty segment"))
			continue
		}
		for _, msg := range utilvalidation.IsConfigMapKey(segment) {
			errs = append(errs, field.Invalid(fldPath, path, "segment "+segment+": "+msg))
		}
	}
	return errs
}

// reservedLabels and reservedDomain are what the controller itself writes on a Secret.
var reservedLabels = []string{"app.kubernetes.io/managed-by", "managed-by"}

const reservedDomain = "hsm.j5t.io/"

func validateTemplate(template *hsm.SecretTemplate, fldPath *field.Path) field.ErrorList {
	if template == nil {
		return nil
	}
	labels, annotations := fldPath.Child("metadata", "labels"), fldPath.Child("metadata", "annotations")
	errs := metav1validation.ValidateLabels(template.Metadata.Labels, labels)
	errs = append(errs, apivalidation.ValidateAnnotations(template.Metadata.Annotations, annotations)...)
	for _, key := range reservedLabels {
		if _, found := template.Metadata.Labels[key]; found {
			errs = append(errs, field.Forbidden(labels.Key(key), "the controller itself writes this label"))
		}
	}
	for key := range template.Metadata.Annotations {
		if strings.HasPrefix(key, reservedDomain) {
			errs = append(errs, field.Forbidden(annotations.Key(key), "annotations of this domain belong to the controller"))
		}
	}
	return errs
}

func validateData(data map[string][]byte, fldPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for name, value := range data {
		for _, msg := range utilvalidation.IsConfigMapKey(name) {
			errs = append(errs, field.Invalid(fldPath.Key(name), name, msg))
		}
		size += len(value)
	}
	if size > hsm.MaxDataSize {
		errs = append(errs, field.TooLong(fldPath, "" /* not shown */, hsm.MaxDataSize))
	}
	return errs
}

// validateRequiredKeys tests what a type of Secret requires, as the server does
// for a core Secret: an HSMSecret that passes can be projected.
func validateRequiredKeys(secret *hsm.HSMSecret) field.ErrorList {
	data := field.NewPath("data")
	switch secret.Spec.SecretType {
	case corev1.SecretTypeTLS:
		return append(
			requireKey(secret.Data, corev1.TLSCertKey, data),
			requireKey(secret.Data, corev1.TLSPrivateKeyKey, data)...)
	case corev1.SecretTypeDockerConfigJson:
		return requireJSON(secret.Data, corev1.DockerConfigJsonKey, data)
	case corev1.SecretTypeDockercfg:
		return requireJSON(secret.Data, corev1.DockerConfigKey, data)
	case corev1.SecretTypeBasicAuth:
		_, hasUsername := secret.Data[corev1.BasicAuthUsernameKey]
		_, hasPassword := secret.Data[corev1.BasicAuthPasswordKey]
		if !hasUsername && !hasPassword {
			return field.ErrorList{
				field.Required(data.Key(corev1.BasicAuthUsernameKey), "spec.secretType kubernetes.io/basic-auth needs username or password"),
				field.Required(data.Key(corev1.BasicAuthPasswordKey), "spec.secretType kubernetes.io/basic-auth needs username or password"),
			}
		}
	case corev1.SecretTypeSSHAuth:
		if len(secret.Data[corev1.SSHAuthPrivateKey]) == 0 {
			return field.ErrorList{field.Required(data.Key(corev1.SSHAuthPrivateKey), "spec.secretType kubernetes.io/ssh-auth needs this key")}
		}
	}
	return nil
}

func requireKey(data map[string][]byte, key string, fldPath *field.Path) field.ErrorList {
	if _, ok := data[key]; !ok {
		return field.ErrorList{field.Required(fldPath.Key(key), "spec.secretType needs this key")}
	}
	return nil
}

func requireJSON(data map[string][]byte, key string, fldPath *field.Path) field.ErrorList {
	if errs := requireKey(data, key, fldPath); len(errs) > 0 {
		return errs
	}
	// The decoder's error cites the value, so it is not shown.
	var object map[string]any
	if err := json.Unmarshal(data[key], &object); err != nil {
		return field.ErrorList{field.Invalid(fldPath.Key(key), "<not shown>", "must be a JSON object")}
	}
	return nil
}
