// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

// createNamed creates an HSMSecret for a Secret of another name.
func createNamed(t *testing.T, namespace, name, secretName, value string) {
	t.Helper()
	_, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Create(t.Context(), &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.HSMSecretSpec{SecretName: secretName},
		Data:       map[string][]byte{"password": []byte(value)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitConflict waits for the reason of an HSMSecret's condition Conflict, and
// for the value in a Secret.
func awaitConflict(t *testing.T, limit time.Duration, namespace, name, reason, secretName, value string) {
	t.Helper()
	await.NoError(t, limit, func(context.Context) error {
		h, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if conflict := meta.FindStatusCondition(h.Status.Conditions, v1alpha1.HSMSecretConflict); conflict == nil || conflict.Reason != reason {
			return fmt.Errorf("the condition of %s is %+v, want reason %s", name, conflict, reason)
		}
		secret, err := core.CoreV1().Secrets(namespace).Get(t.Context(), secretName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := string(secret.Data["password"]); got != value {
			return fmt.Errorf("Secret %s has %q, want %q", secretName, got, value)
		}
		return nil
	})
}

// TestTwoForOne has two HSMSecrets name one Secret: the older has it, in whatever order
// they came; the other reports, and gets it when it is free.
func TestTwoForOne(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	createNamed(t, namespace, "older", "own", "older")
	awaitConflict(t, 20*time.Second, namespace, "older", "NoConflict", "own", "older")
	older, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), "older", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The time of creation has whole seconds.
	<-time.After(time.Until(older.CreationTimestamp.Add(1100 * time.Millisecond)))
	createNamed(t, namespace, "younger", "shared", "younger")
	awaitConflict(t, 20*time.Second, namespace, "younger", "NoConflict", "shared", "younger")

	c := cell{t, config{}, namespace, "older"}
	c.update(func(h *v1alpha1.HSMSecret) { h.Spec.SecretName = "shared" })
	awaitConflict(t, 20*time.Second, namespace, "older", "NoConflict", "shared", "older")
	awaitConflict(t, 20*time.Second, namespace, "younger", "SecretTaken", "shared", "older")
	c.deleteHSMSecret()
	awaitConflict(t, 40*time.Second, namespace, "younger", "NoConflict", "shared", "younger")
}

// TestCopy has somebody copy a projected Secret as people do, with all its
// labels and annotations, and then the HSMSecret gets another secretName: the
// copy is theirs, and stays.
func TestCopy(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	createNamed(t, namespace, "db", "first", "one")
	awaitConflict(t, 20*time.Second, namespace, "db", "NoConflict", "first", "one")
	first, err := core.CoreV1().Secrets(namespace).Get(t.Context(), "first", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	duplicate := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "copy", Labels: first.Labels, Annotations: maps.Clone(first.Annotations)},
		Data:       map[string][]byte{"password": []byte("theirs")},
	}
	if duplicate, err = core.CoreV1().Secrets(namespace).Create(t.Context(), duplicate, metav1.CreateOptions{FieldManager: "user"}); err != nil {
		t.Fatal(err)
	}
	c := cell{t, config{}, namespace, "db"}
	c.update(func(h *v1alpha1.HSMSecret) { h.Spec.SecretName = "second" })
	awaitConflict(t, 20*time.Second, namespace, "db", "NoConflict", "second", "one")
	c.await(20*time.Second, func() error {
		if c.secret("first") != nil {
			return fmt.Errorf("the Secret of the old name is still there")
		}
		return nil
	})
	if now := c.secret("copy"); now == nil || !equality.Semantic.DeepEqual(now, duplicate) {
		t.Errorf("the copy was %v, is %v", duplicate, now)
	}
}
