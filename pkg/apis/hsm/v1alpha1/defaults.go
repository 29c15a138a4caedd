// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import "k8s.io/apimachinery/pkg/runtime"

// The defaults are +default tags on the fields. Those of spec.hsmPath and
// spec.secretName follow from the object's namespace and name, which are not
// known before a request is: its strategy sets them.
func addDefaultingFuncs(scheme *runtime.Scheme) error {
	return RegisterDefaults(scheme)
}
