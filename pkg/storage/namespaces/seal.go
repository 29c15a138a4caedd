// SPDX-License-Identifier: Apache-2.0

package namespaces

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/storebinding"
)

const (
	// fieldManager is who this server is in managedFields.
	fieldManager = "hsm-apiserver"
	// sealAnnotation is the seal: a random word, and a digest of it and of the namespaces.
	sealAnnotation = "hsm.j5t.io/seal"
)

// errNotTrusted: somebody else has written the ConfigMap. A namespace that is not in it
// may hold records all the same.
var errNotTrusted = errors.New("the ConfigMap is not as this server wrote it, so no namespace is known to be empty until the store is back")

// trust returns an error that wraps errNotTrusted if a ConfigMap may lack namespaces. What
// can happen to it:
//
//   - Somebody removes namespaces: the digest differs.
//   - Somebody replaces it by its manifest: there is no seal. That is as it was installed,
//     but a cluster that is bound to a store has written a seal since.
//   - Somebody puts an older one back: its seal is right, but somebody else wrote it, says
//     managedFields. The random word is there so that each of our own writes changes
//     the seal, and so makes it ours again.
func (o occupied) trust(ctx context.Context, m *corev1.ConfigMap) error {
	if isSealed(m) {
		return nil
	}
	if len(m.Data) > 0 || m.Annotations[sealAnnotation] != "" {
		return errNotTrusted
	}
	binding, err := o.host.configMaps().Get(ctx, storebinding.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && storebinding.StoreID(binding) == "":
		return nil // There never was a store.
	case err != nil:
		return fmt.Errorf("find out whether the cluster is bound to a store: %w", err)
	}
	return errNotTrusted
}

// isSealed reports whether this server wrote what is in the ConfigMap.
func isSealed(m *corev1.ConfigMap) bool {
	word, digest, ok := strings.Cut(m.Annotations[sealAnnotation], " ")
	if !ok || digest != digestOf(word, m.Data) {
		return false
	}
	ours := false
	for _, entry := range m.ManagedFields {
		if entry.FieldsV1 == nil || !bytes.Contains(entry.FieldsV1.GetRawBytes(), []byte(`"f:`+sealAnnotation+`"`)) {
			continue
		}
		if entry.Manager != fieldManager {
			return false
		}
		ours = true
	}
	return ours
}

// seal seals a ConfigMap that is to be written.
func seal(m *corev1.ConfigMap) {
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	word := rand.Text()
	m.Annotations[sealAnnotation] = word + " " + digestOf(word, m.Data)
}

func digestOf(word string, namespaces map[string]string) string {
	// No name has a line break.
	sum := sha256.Sum256([]byte(word + "\n" + strings.Join(slices.Sorted(maps.Keys(namespaces)), "\n")))
	return hex.EncodeToString(sum[:])
}
