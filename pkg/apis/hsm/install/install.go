// SPDX-License-Identifier: Apache-2.0

// Package install registers all versions of the API group hsm.j5t.io in a
// scheme. It never holds a scheme of its own.
package install

import (
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// Install adds the group's types, defaults, conversions and validations to a
// scheme.
func Install(scheme *runtime.Scheme) {
	utilruntime.Must(hsm.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	utilruntime.Must(scheme.SetVersionPriority(v1alpha1.SchemeGroupVersion))
}
