// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

func testHSMSecret() *v1alpha1.HSMSecret {
	return &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "db", UID: "u1"},
		Spec:       v1alpha1.HSMSecretSpec{SecretName: "db", SecretType: corev1.SecretTypeOpaque},
		Data:       map[string][]byte{"password": []byte("one")},
	}
}

// projectedSecret is the Secret of an HSMSecret.
func projectedSecret(h *v1alpha1.HSMSecret) *corev1.Secret {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "db"}, Type: corev1.SecretTypeOpaque}
	return metadataFor(h).withSyncState(dataVersion{"1", "sum"}, "", false).setOn(secret, h.Data)
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	othersOwner := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", UID: "u7"}
	for _, c := range []struct {
		name    string
		change  func(*v1alpha1.HSMSecret, *corev1.Secret)
		current bool
		removes bool // Something has to go.
	}{
		{"as made", func(*v1alpha1.HSMSecret, *corev1.Secret) {}, true, false},
		{"label gone", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { delete(s.Labels, ManagedByLabel) }, false, false},
		{"label changed", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { s.Labels[ShortManagedByLabel] = "helm" }, false, false},
		{"source gone", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { delete(s.Annotations, SourceUIDAnnotation) }, false, false},
		{"others' label", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { s.Labels["a"] = "b" }, true, false},
		{"others' owner", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) {
			s.OwnerReferences = append(s.OwnerReferences, othersOwner)
		}, true, false},
		{"owner gone", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { s.OwnerReferences = nil }, false, false},
		{"to be retained", func(h *v1alpha1.HSMSecret, _ *corev1.Secret) { h.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain }, false, true},
		{"retained", func(h *v1alpha1.HSMSecret, s *corev1.Secret) {
			h.Spec.DeletionPolicy, s.OwnerReferences = v1alpha1.DeletionPolicyRetain, nil
		}, true, false},
		{"of one of the same name that is gone", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { s.OwnerReferences[0].UID = "u0" }, false, true},
		{"key more", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { s.Data["more"] = nil }, true, true},
		{"value other", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { s.Data["password"] = []byte("two") }, true, false},
		{"adoptable", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { s.Annotations[AdoptAnnotation] = "true" }, true, true},
		{"pending", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { s.Annotations[RestartAnnotation] = restartPending }, true, true},
		{"to be immutable", func(h *v1alpha1.HSMSecret, _ *corev1.Secret) { h.Immutable = new(true) }, false, false},
		{"template", func(h *v1alpha1.HSMSecret, _ *corev1.Secret) {
			h.Spec.Template = &v1alpha1.SecretTemplate{Metadata: v1alpha1.SecretTemplateMetadata{Labels: map[string]string{"kind": "repository"}}}
		}, false, false},
		{"template without a label that it had", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) {
			s.Labels["kind"] = "repository"
			s.ManagedFields = ownFields(`{"f:metadata":{"f:labels":{"f:kind":{}}}}`)
		}, false, true},
		{"template without an annotation that it had", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) {
			s.Annotations["note"] = "x"
			s.ManagedFields = ownFields(`{"f:metadata":{"f:annotations":{".":{},"f:note":{},"f:hsm.j5t.io/revision":{}}}}`)
		}, false, true},
		{"immutable by others", func(_ *v1alpha1.HSMSecret, s *corev1.Secret) { s.Immutable = new(true) }, true, false},
	} {
		h := testHSMSecret()
		secret := projectedSecret(h)
		secret.Data = maps.Clone(secret.Data)
		c.change(h, secret)
		m := metadataFor(h)
		withState := m.withSyncState(dataVersion{"1", "sum"}, "", false)
		if got := m.isCurrent(secret); got != c.current {
			t.Errorf("%s: it is current: %t", c.name, got)
		}
		if got := withState.removes(secret, h.Data); got != c.removes {
			t.Errorf("%s: something has to go: %t", c.name, got)
		}
		before := secret.DeepCopy()
		updated := withState.setOn(secret, h.Data)
		if !m.isCurrent(updated) || withState.removes(updated, h.Data) {
			t.Errorf("%s: updated, it is not current: %+v", c.name, updated)
		}
		if !equality.Semantic.DeepEqual(before, secret) {
			t.Errorf("%s: the Secret that was read was changed", c.name)
		}
		for label, value := range map[string]string{"a": "b"} {
			if secret.Labels[label] == value && updated.Labels[label] != value {
				t.Errorf("%s: lost the label %s of others", c.name, label)
			}
		}
	}
}

// ownFields are managedFields of the controller.
func ownFields(fields string) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{
		Manager: identity.FieldManager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(fields),
	}}
}

// TestKept: of a Secret that is made again, what others have put on it is kept, and nothing
// else.
func TestKept(t *testing.T) {
	t.Parallel()
	secret := projectedSecret(testHSMSecret())
	secret.Labels["mine"], secret.Labels["declared"] = "1", "2"
	secret.Annotations["theirs"], secret.Annotations[AdoptAnnotation] = "3", "true"
	secret.ManagedFields = ownFields(`{"f:metadata":{"f:labels":{"f:declared":{},"f:managed-by":{},"f:app.kubernetes.io/managed-by":{}}}}`)
	k := keptOf(secret).without(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"other": "4"}}})
	if !maps.Equal(k.labels, map[string]string{"mine": "1"}) || !maps.Equal(k.annotations, map[string]string{"theirs": "3"}) {
		t.Errorf("kept are %v and %v", k.labels, k.annotations)
	}
	if k := k.without(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"mine": "of others now"}}}); len(k.labels) > 0 {
		t.Errorf("%v would be overwritten", k.labels)
	}
}

func TestServiceAccountToken(t *testing.T) {
	t.Parallel()
	h := testHSMSecret()
	h.Spec.SecretType = corev1.SecretTypeServiceAccountToken
	h.Annotations = map[string]string{corev1.ServiceAccountNameKey: "builder"}
	if got := metadataFor(h).annotations[corev1.ServiceAccountNameKey]; got != "builder" {
		t.Errorf("the Secret would be refused: its annotation is %q", got)
	}
}

func TestContentAnnotation(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, name := range []string{"db", "a.b-c", strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 63) + "b", strings.Repeat("a", 253)} {
		annotation := contentAnnotation(name)
		if problems := validation.IsQualifiedName(annotation); len(problems) > 0 {
			t.Errorf("%s: %v", annotation, problems)
		}
		if other, ok := seen[annotation]; ok {
			t.Errorf("%s is that of %s and %s", annotation, name, other)
		}
		seen[annotation] = name
	}
}

func TestChecksum(t *testing.T) {
	t.Parallel()
	key := []byte(strings.Repeat("k", keySize))
	data := func(pairs ...string) map[string][]byte {
		m := map[string][]byte{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = []byte(pairs[i+1])
		}
		return m
	}
	if checksum(key, "u", data("a", "1", "b", "2")) != checksum(key, "u", data("b", "2", "a", "1")) {
		t.Error("it depends on the order of a map")
	}
	if checksum(key, "u", nil) != checksum(key, "u", data()) {
		t.Error("no data and empty data differ")
	}
	seen := map[string]int{}
	for i, sum := range []string{
		checksum(key, "u", nil),
		checksum(key, "u", data("a", "")),
		checksum(key, "u", data("a", "1")),
		checksum(key, "u", data("a", "1", "b", "")),
		checksum(key, "u", data("a1", "")),
		checksum(key, "u", data("a", "1b")),
		checksum(key, "v", data("a", "1")),
		checksum([]byte(strings.Repeat("K", keySize)), "u", data("a", "1")),
	} {
		if other, ok := seen[sum]; ok {
			t.Errorf("%d and %d are the same", i, other)
		}
		seen[sum] = i
		if !strings.HasPrefix(sum, "hmac-sha256:") || len(sum) != len("hmac-sha256:")+64 {
			t.Errorf("%s has not the form that the API promises", sum)
		}
	}
}
