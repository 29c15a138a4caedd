// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/controller/identity"
)

// keptManager is the field manager of what the controller puts back for others. As
// identity.FieldManager it would remove it with its next apply.
const keptManager = identity.FieldManager + "-kept"

// metadataKeys are keys of labels and annotations.
type metadataKeys struct {
	labels, annotations map[string]struct{}
}

func (k metadataKeys) any() bool { return len(k.labels)+len(k.annotations) > 0 }

// keysSet are those on a Secret that the controller has set.
func keysSet(secret *corev1.Secret) metadataKeys {
	set := metadataKeys{map[string]struct{}{}, map[string]struct{}{}}
	for _, entry := range secret.ManagedFields {
		if entry.Manager != identity.FieldManager || entry.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Metadata struct {
				Labels      map[string]json.RawMessage `json:"f:labels"`
				Annotations map[string]json.RawMessage `json:"f:annotations"`
			} `json:"f:metadata"`
		}
		// What cannot be decoded names no fields.
		_ = json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields)
		add := func(to map[string]struct{}, names map[string]json.RawMessage, on map[string]string) {
			for name := range names {
				key, isField := strings.CutPrefix(name, "f:")
				if _, found := on[key]; isField && found {
					to[key] = struct{}{}
				}
			}
		}
		add(set.labels, fields.Metadata.Labels, secret.Labels)
		add(set.annotations, fields.Metadata.Annotations, secret.Annotations)
	}
	return set
}

// isOurs reports whether an annotation is one of the controller's own.
func isOurs(annotation string) bool { return strings.HasPrefix(annotation, annotationDomain) }

// kept are the labels and annotations of others on a Secret that has to be made again.
type kept struct {
	from                types.UID
	labels, annotations map[string]string
}

func keptOf(secret *corev1.Secret) *kept {
	set := keysSet(secret)
	k := &kept{secret.UID, maps.Clone(secret.Labels), maps.Clone(secret.Annotations)}
	maps.DeleteFunc(k.labels, func(key, _ string) bool { _, ours := set.labels[key]; return ours })
	maps.DeleteFunc(k.annotations, func(key, _ string) bool { _, ours := set.annotations[key]; return ours || isOurs(key) })
	return k
}

// without returns what a Secret lacks of it.
func (k *kept) without(secret *corev1.Secret) *kept {
	missing := &kept{k.from, maps.Clone(k.labels), maps.Clone(k.annotations)}
	maps.DeleteFunc(missing.labels, func(key, _ string) bool { _, found := secret.Labels[key]; return found })
	maps.DeleteFunc(missing.annotations, func(key, _ string) bool { _, found := secret.Annotations[key]; return found })
	return missing
}

// restoreKept puts the labels and annotations of others on a Secret that was made again.
func (r *reconciler) restoreKept(ctx context.Context, p *pass) error {
	k := p.state.kept
	if k == nil || p.secret == nil || p.secret.UID == k.from {
		return nil
	}
	if missing := k.without(p.secret); !p.isForeign() && len(missing.labels)+len(missing.annotations) > 0 {
		body, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": p.secret.UID, "labels": missing.labels, "annotations": missing.annotations,
		}})
		if err != nil {
			return fmt.Errorf("encode metadata: %w", err)
		}
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: p.secret.Namespace, Name: p.secret.Name}}
		if err := r.client.Patch(ctx, secret, client.RawPatch(types.MergePatchType, body), client.FieldOwner(keptManager)); err != nil {
			return fmt.Errorf("put labels and annotations of others back on Secret %s: %w", p.secret.Name, err)
		}
		p.secret = secret
	}
	p.state.kept = nil
	return nil
}
