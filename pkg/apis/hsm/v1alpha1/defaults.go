// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import "k8s.io/apimachinery/pkg/runtime"

// The defaults are +default tags on the fields. Those of spec.hsmPath and
// spec.secretName follow from the object's namespace and name, and are in no field:
// a copy of the object under another name has others.
func addDefaultingFuncs(scheme *runtime.Scheme) error {
	return RegisterDefaults(scheme)
}
