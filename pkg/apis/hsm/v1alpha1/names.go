// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// SecretName is the name of the projected Secret: spec.secretName, or its default.
func (in *HSMSecret) SecretName() string {
	if in.Spec.SecretName != "" {
		return in.Spec.SecretName
	}
	return in.Name
}
