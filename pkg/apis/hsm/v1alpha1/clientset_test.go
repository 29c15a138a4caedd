// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hsmapply "j5t.io/hsm/pkg/generated/applyconfiguration/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned/fake"
)

// The fake clientset merges applied configurations by the schema of the types:
// tests of controllers rely on it.
func TestFakeClientsetApplies(t *testing.T) {
	t.Parallel()
	secrets := fake.NewClientset().HsmV1alpha1().HSMSecrets("app")
	target := func(name string) *hsmapply.RolloutRestartTargetApplyConfiguration {
		return hsmapply.RolloutRestartTarget().WithKind("Deployment").WithName(name)
	}
	apply := func(manager string, spec *hsmapply.HSMSecretSpecApplyConfiguration) error {
		_, err := secrets.Apply(t.Context(), hsmapply.HSMSecret("db", "app").WithSpec(spec), metav1.ApplyOptions{FieldManager: manager})
		return err
	}

	if err := apply("one", hsmapply.HSMSecretSpec().WithSyncInterval(60).WithRolloutRestartTargets(target("web"))); err != nil {
		t.Fatal(err)
	}
	if err := apply("two", hsmapply.HSMSecretSpec().WithRolloutRestartTargets(target("api"))); err != nil {
		t.Fatal(err)
	}
	if err := apply("two", hsmapply.HSMSecretSpec().WithSyncInterval(90)); !apierrors.IsConflict(err) {
		t.Errorf("error is %v, want 409 for a field of another manager", err)
	}
	secret, err := secrets.Get(t.Context(), "db", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if secret.Spec.SyncInterval != 60 || len(secret.Spec.RolloutRestartTargets) != 2 {
		t.Errorf("spec is %+v, want the fields of both managers", secret.Spec)
	}
}
