// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

func TestLook(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		name   string
		change func(*memory, *metav1.PartialObjectMetadata, *version)
		want   look
	}{
		{"nothing new", func(*memory, *metav1.PartialObjectMetadata, *version) {}, lookNot},
		{"never seen", func(m *memory, _ *metav1.PartialObjectMetadata, _ *version) { *m = memory{} }, lookAll},
		{"failed", func(m *memory, _ *metav1.PartialObjectMetadata, _ *version) { m.stale = true }, lookAll},
		{"made anew", func(_ *memory, h *metav1.PartialObjectMetadata, _ *version) { h.UID = "other" }, lookAll},
		{"changed", func(_ *memory, h *metav1.PartialObjectMetadata, _ *version) { h.Generation = 8 }, lookAll},
		{"shown as before our push", func(_ *memory, h *metav1.PartialObjectMetadata, _ *version) { h.Generation = 6 }, lookNot},
		{"labelled", func(_ *memory, h *metav1.PartialObjectMetadata, _ *version) { h.Labels = map[string]string{"a": "b"} }, lookNot},
		{"asked", func(_ *memory, h *metav1.PartialObjectMetadata, _ *version) {
			h.Annotations = map[string]string{SyncAnnotation: "again"}
		}, lookAll},
		{"Secret edited", func(_ *memory, _ *metav1.PartialObjectMetadata, s *version) { s.resourceVersion = "101" }, lookAll},
		{"Secret shown as before our write", func(_ *memory, _ *metav1.PartialObjectMetadata, s *version) { s.resourceVersion = "99" }, lookNot},
		{"Secret deleted", func(_ *memory, _ *metav1.PartialObjectMetadata, s *version) { *s = version{} }, lookAll},
		{"Secret not shown yet", func(m *memory, _ *metav1.PartialObjectMetadata, s *version) {
			*s, m.settled = version{}, now.Add(time.Second)
		}, lookLater},
		{"Secret shown, and deleted", func(m *memory, _ *metav1.PartialObjectMetadata, s *version) {
			*s, m.settled, m.secret.uid = version{}, now.Add(time.Second), "shown"
		}, lookAll},
		{"Secret made anew", func(_ *memory, _ *metav1.PartialObjectMetadata, s *version) { s.uid = "other" }, lookAll},
		{"Secret appeared", func(m *memory, _ *metav1.PartialObjectMetadata, _ *version) { m.secret = version{} }, lookAll},
		{"interval", func(m *memory, _ *metav1.PartialObjectMetadata, _ *version) { m.next = now }, lookSource},
		{"status lost", func(_ *memory, h *metav1.PartialObjectMetadata, _ *version) { h.ManagedFields = nil }, lookStatus},
		{"status not shown yet", func(m *memory, h *metav1.PartialObjectMetadata, _ *version) {
			h.ManagedFields, m.settled = nil, now.Add(time.Second)
		}, lookLater},
		{"refused", func(m *memory, _ *metav1.PartialObjectMetadata, s *version) { m.refused, *s = true, version{} }, lookNot},
		{"refused, interval", func(m *memory, _ *metav1.PartialObjectMetadata, s *version) {
			m.refused, *s, m.next = true, version{}, now
		}, lookRefused},
		{"refused, changed", func(m *memory, h *metav1.PartialObjectMetadata, _ *version) { m.refused, h.Generation = true, 8 }, lookAll},
	} {
		m := memory{
			known: true, uid: "h", generation: 7, secretName: "s", secret: version{"s", "100"},
			next: now.Add(time.Minute), status: &v1alpha1.HSMSecretStatus{},
		}
		h := metadataOf(hsmSecretKind)
		h.UID, h.Generation = "h", 7
		h.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: identity.FieldManager, Subresource: "status"}}
		secret := version{"s", "100"}
		c.change(&m, h, &secret)
		if got := m.look(h, secret, "shown", now); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}
