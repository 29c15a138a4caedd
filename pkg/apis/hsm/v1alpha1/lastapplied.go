// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"bytes"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
)

// WithBlankLastApplied returns annotations in which kubectl's
// last-applied-configuration holds no secret value. The names in data and
// stringData stay, by which kubectl apply finds what was removed; their values
// become empty. A top-level field that is not ours is left out, and an annotation
// that cannot be read is dropped, for there may be values in it.
func WithBlankLastApplied(annotations map[string]string) map[string]string {
	lastApplied, ok := annotations[corev1.LastAppliedConfigAnnotation]
	if !ok {
		return annotations
	}
	blank, ok := blankValues(lastApplied)
	if ok && blank == lastApplied {
		return annotations
	}
	annotations = maps.Clone(annotations)
	if ok {
		annotations[corev1.LastAppliedConfigAnnotation] = blank
	} else {
		delete(annotations, corev1.LastAppliedConfigAnnotation)
	}
	return annotations
}

// blankValues blanks the values of an HSMSecret in JSON. It encodes as kubectl
// does, so that the result of blanking is stable.
func blankValues(object string) (blank string, ok bool) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &fields); err != nil {
		return "", false
	}
	for name, field := range fields {
		switch name {
		case "apiVersion", "kind", "metadata", "spec", "immutable":
		case "data", "stringData":
			var values map[string]any
			if err := json.Unmarshal(field, &values); err != nil {
				return "", false
			}
			for key := range values {
				values[key] = ""
			}
			empty, err := json.Marshal(values)
			if err != nil {
				return "", false
			}
			fields[name] = empty
		default:
			delete(fields, name)
		}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(fields); err != nil {
		return "", false
	}
	return out.String(), true
}
