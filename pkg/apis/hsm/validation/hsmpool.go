// SPDX-License-Identifier: Apache-2.0

package validation

import (
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"j5t.io/hsm/pkg/apis/hsm"
)

// ValidateHSMPool tests an HSMPool before it is stored.
func ValidateHSMPool(pool *hsm.HSMPool) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&pool.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	if period := pool.Spec.GracePeriod; period != nil && period.Duration <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "gracePeriod"), period.Duration.String(), "must be more than zero, such as 5m"))
	}
	return errs
}

// ValidateHSMPoolStatusUpdate tests a status before it replaces another.
func ValidateHSMPoolStatusUpdate(pool *hsm.HSMPool) field.ErrorList {
	return metav1validation.ValidateConditions(pool.Status.Conditions, field.NewPath("status", "conditions"))
}
