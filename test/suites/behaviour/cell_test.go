// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/projection"
	"j5t.io/hsm/test/framework/await"
)

func (c cell) create() {
	c.Helper()
	h := &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: c.name},
		Spec: v1alpha1.HSMSecretSpec{
			AutoSync:       &c.auto,
			SyncDirection:  v1alpha1.SyncDirectionHSMToSecret,
			DeletionPolicy: v1alpha1.DeletionPolicyDelete,
		},
		Data: states["v1"],
	}
	if c.both {
		h.Spec.SyncDirection = v1alpha1.SyncDirectionBidirectional
	}
	if c.retain {
		h.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain
	}
	if _, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Create(c.Context(), h, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

// update changes the HSMSecret as a user does.
func (c cell) update(change func(*v1alpha1.HSMSecret)) {
	c.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(h)
		_, err = secrets.HsmV1alpha1().HSMSecrets(c.namespace).Update(c.Context(), h, metav1.UpdateOptions{FieldManager: "user"})
		return err
	})
	if err != nil {
		c.Fatal(err)
	}
}

func (c cell) changeToken() { c.update(func(h *v1alpha1.HSMSecret) { h.Data = states["t2"] }) }

func (c cell) ask() {
	c.update(func(h *v1alpha1.HSMSecret) {
		h.Annotations = map[string]string{projection.SyncAnnotation: fmt.Sprint(time.Now().UnixNano())}
	})
}

func (c cell) turnPolicyRound() {
	c.update(func(h *v1alpha1.HSMSecret) {
		if c.retain {
			h.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete
		} else {
			h.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain
		}
	})
	c.await(time.Minute, func() error {
		if owned := len(c.secret(c.name).OwnerReferences) > 0; owned != c.retain {
			return fmt.Errorf("the Secret has an owner: %t", owned)
		}
		return nil
	})
}

func (c cell) deleteHSMSecret() {
	c.Helper()
	c.deleteHSMSecretBy(metav1.DeletePropagationBackground)
}

func (c cell) deleteHSMSecretBy(policy metav1.DeletionPropagation) {
	c.Helper()
	if err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Delete(c.Context(), c.name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		c.Fatal(err)
	}
}

// orphaned checks that the garbage collector will not come for the Secret.
func (c cell) orphaned() {
	c.Helper()
	if secret := c.secret(c.name); secret == nil || len(secret.OwnerReferences) > 0 {
		c.Errorf("%s: the Secret is not orphaned: %v", c.name, secret)
	}
}

func (c cell) editSecret() { c.edit(states["s2"]) }

func (c cell) edit(data map[string][]byte) {
	c.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		secret, err := core.CoreV1().Secrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		secret.Data = data
		_, err = core.CoreV1().Secrets(c.namespace).Update(c.Context(), secret, metav1.UpdateOptions{FieldManager: "user"})
		return err
	})
	if err != nil {
		c.Fatal(err)
	}
}

func (c cell) patchSecret(patch string) {
	c.Helper()
	if _, err := core.CoreV1().Secrets(c.namespace).Patch(c.Context(), c.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c cell) deleteSecret() {
	c.Helper()
	if err := core.CoreV1().Secrets(c.namespace).Delete(c.Context(), c.name, metav1.DeleteOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c cell) createForeign() { c.createOther(corev1.SecretTypeOpaque) }

func (c cell) createForeignTLS() { c.createOther("example.com/other") }

func (c cell) createOther(secretType corev1.SecretType) {
	c.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: c.name, Labels: map[string]string{"app": "theirs"}}, Data: states["foreign"], Type: secretType}
	if _, err := core.CoreV1().Secrets(c.namespace).Create(c.Context(), secret, metav1.CreateOptions{FieldManager: "user"}); err != nil {
		c.Fatal(err)
	}
}

func (c cell) adopt() {
	c.patchSecret(`{"metadata":{"annotations":{"` + projection.AdoptAnnotation + `":"true"}}}`)
}

// secret is nil if there is none.
func (c cell) secret(name string) *corev1.Secret {
	c.Helper()
	secret, err := core.CoreV1().Secrets(c.namespace).Get(c.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.Fatal(err)
	}
	return secret
}

// secretState is the state of the Secret's data.
func (c cell) secretState() string {
	c.Helper()
	secret := c.secret(c.name)
	if secret == nil {
		return "-"
	}
	return stateOf(secret.Data)
}

// check waits until what is wanted is there.
func (c cell) check(when string, limit time.Duration, w want) {
	c.Helper()
	c.await(limit, func() error {
		got := c.state(w)
		if got != w {
			return fmt.Errorf("%s %s: got %q, want %q", c.name, when, got, w)
		}
		return nil
	})
}

func (c cell) await(limit time.Duration, condition func() error) {
	c.Helper()
	await.NoError(c.T, limit, func(context.Context) error { return condition() })
}

// state sums up what there is; where a "?" is wanted, nobody looks.
func (c cell) state(w want) want {
	c.Helper()
	got := []string{"-", "-", "-", "-"}
	wanted := strings.Fields(string(w))
	got[1] = c.secretState()
	if wanted[0] == "?" {
		got[0], got[2], got[3] = "?", "?", "?"
		return want(strings.Join(got, " "))
	}
	h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		got[0] = err.Error()
	default:
		got[0] = stateOf(h.Data)
		for i, conditionType := range []string{v1alpha1.HSMSecretSynced, v1alpha1.HSMSecretConflict} {
			if condition := meta.FindStatusCondition(h.Status.Conditions, conditionType); condition != nil {
				got[2+i] = condition.Reason
			}
		}
		if h.Status.ObservedGeneration != h.Generation {
			got[2] += "(not yet)"
		}
	}
	return want(strings.Join(got, " "))
}

func stateOf(data map[string][]byte) string {
	for name, state := range states {
		if equality.Semantic.DeepEqual(state, data) {
			return name
		}
	}
	return fmt.Sprintf("%q", data)
}

func (c cell) awaitReason(is bool, yes, no string) {
	c.Helper()
	reason := no
	if is {
		reason = yes
	}
	c.await(time.Minute, func() error {
		h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if synced := meta.FindStatusCondition(h.Status.Conditions, v1alpha1.HSMSecretSynced); synced == nil || synced.Reason != reason {
			return fmt.Errorf("%s: %+v", c.name, synced)
		}
		return nil
	})
}

// holds waits until a Secret has data.
func (c cell) holds(name, state string) {
	c.Helper()
	c.await(time.Minute, func() error {
		if secret := c.secret(name); secret == nil || stateOf(secret.Data) != state {
			return fmt.Errorf("Secret %s is %v, want %s", name, secret, state)
		}
		return nil
	})
}

// metadataCurrent waits until all that the Secret is besides its data is right.
func (c cell) metadataCurrent() {
	c.Helper()
	c.await(time.Minute, c.outdated)
}

// outdated says what is not right.
func (c cell) outdated() error {
	h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	secret := c.secret(c.name)
	for label, value := range map[string]string{"app.kubernetes.io/managed-by": "hsm-controller", "managed-by": "hsm-secrets-operator"} {
		if secret.Labels[label] != value {
			return fmt.Errorf("%s: label %s is %q, want %q", c.name, label, secret.Labels[label], value)
		}
	}
	for annotation, value := range map[string]string{
		projection.SourceUIDAnnotation: string(h.UID),
		projection.RevisionAnnotation:  h.Status.DataVersion,
		projection.ChecksumAnnotation:  h.Status.HSMChecksum,
	} {
		if secret.Annotations[annotation] != value {
			return fmt.Errorf("%s: annotation %s is %q, want %q", c.name, annotation, secret.Annotations[annotation], value)
		}
	}
	owner := metav1.GetControllerOf(secret)
	if c.retain != (owner == nil) || owner != nil && owner.UID != h.UID {
		return fmt.Errorf("%s: the owner is %v", c.name, owner)
	}
	if secret.Type != corev1.SecretTypeOpaque {
		return fmt.Errorf("%s: type %s", c.name, secret.Type)
	}
	if ref := h.Status.SecretRef; ref == nil || ref.Name != secret.Name || ref.UID != secret.UID {
		return fmt.Errorf("%s: secretRef is %v", c.name, ref)
	}
	if h.Status.SyncStatus != v1alpha1.SyncStatusInSync || h.Status.SecretChecksum != h.Status.HSMChecksum || h.Status.LastError != "" || h.Status.LastSyncTime == nil {
		return fmt.Errorf("%s: status %+v", c.name, h.Status)
	}
	return nil
}

// untouched checks that the foreign Secret is as it was made, but for the
// annotation to adopt.
func (c cell) untouched() {
	c.Helper()
	secret := c.secret(c.name)
	if len(secret.ManagedFields) != 1 || secret.ManagedFields[0].Manager != "user" || len(secret.Labels) != 1 || len(secret.OwnerReferences) > 0 || len(secret.Annotations) > 0 {
		c.Errorf("%s: the Secret of somebody else was touched: %+v", c.name, secret.ObjectMeta)
	}
}

func (c cell) adoptionOver() {
	c.Helper()
	c.metadataCurrent()
	secret := c.secret(c.name)
	if _, still := secret.Annotations[projection.AdoptAnnotation]; still {
		c.Errorf("%s: the permission to adopt is still there", c.name)
	}
	if secret.Labels["app"] != "theirs" {
		c.Errorf("%s: labels of others are gone: %v", c.name, secret.Labels)
	}
}

// lossTold checks that the lost edit is told, and no value with it.
func (c cell) lossTold() {
	c.Helper()
	if !c.auto || !c.both {
		return
	}
	h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	told := []string{meta.FindStatusCondition(h.Status.Conditions, v1alpha1.HSMSecretConflict).Message}
	c.await(time.Minute, func() error {
		events, err := core.CoreV1().Events(c.namespace).List(c.Context(), metav1.ListOptions{FieldSelector: "reason=Conflict"})
		if err != nil {
			return err
		}
		kinds := map[string]bool{}
		for _, event := range events.Items {
			if event.InvolvedObject.Name == c.name {
				kinds[event.InvolvedObject.Kind] = true
				told = append(told, event.Message)
			}
		}
		if !kinds["HSMSecret"] || !kinds["Secret"] {
			return fmt.Errorf("%s: no events of the loss: %v", c.name, kinds)
		}
		return nil
	})
	for _, message := range told {
		if !strings.Contains(message, "by user") || strings.Contains(message, "s2") {
			c.Errorf("%s: the loss is told as %q", c.name, message)
		}
	}
}
