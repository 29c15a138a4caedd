// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

// TestFailure has a quota forbid the Secret: the status says so and what is in
// the way, once; when the quota is gone, all is well, and told.
func TestFailure(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	quotas := core.CoreV1().ResourceQuotas(namespace)
	_, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "no-secrets"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourceSecrets: resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await.NoError(t, time.Minute, func(context.Context) error {
		_, err := core.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "try-"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if !apierrors.IsForbidden(err) {
			return fmt.Errorf("the quota does not hold yet: %w", err)
		}
		return nil
	})

	createNamed(t, namespace, "db", "db", "one")
	get := func() *v1alpha1.HSMSecret {
		h, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), "db", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	await.NoError(t, time.Minute, func(context.Context) error {
		status := get().Status
		synced := meta.FindStatusCondition(status.Conditions, v1alpha1.HSMSecretSynced)
		if status.SyncStatus != v1alpha1.SyncStatusError || !strings.Contains(status.LastError, "no-secrets") ||
			synced == nil || synced.Status != metav1.ConditionFalse || synced.Reason != "SyncFailed" {
			return fmt.Errorf("status %+v", status)
		}
		return nil
	})
	event(t, namespace, "HSMSecret", "db", "SyncFailed")
	statusWrites := func() int {
		return projector.proxy.count(func(c call) bool { return c.namespace == namespace && c.resource == "hsmsecrets/status" })
	}
	tries := func() int {
		return projector.proxy.count(func(c call) bool { return c.namespace == namespace && c.resource == "secrets" && c.writes() })
	}
	// It is tried again, ever later, and without a word.
	writesBefore, triesBefore := statusWrites(), tries()
	await.NoError(t, time.Minute, func(context.Context) error {
		if tries() < triesBefore+2 {
			return fmt.Errorf("it is not tried again")
		}
		return nil
	})
	if n := statusWrites() - writesBefore; n > 0 {
		t.Errorf("%d status writes for the same failure", n)
	}
	if err := quotas.Delete(t.Context(), "no-secrets", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitSynced(t, namespace, 1, time.Minute)
	if status := get().Status; status.LastError != "" || status.SyncStatus != v1alpha1.SyncStatusInSync {
		t.Errorf("status %+v", status)
	}
	event(t, namespace, "HSMSecret", "db", "Recovered")
	event(t, namespace, "Secret", "db", "Created")
}

// TestInsistence: somebody edits or deletes a Secret again and again, as another
// controller does: each time is answered at first, but not at that pace for long.
func TestInsistence(t *testing.T) {
	t.Parallel()
	n := 0
	for _, c := range []struct {
		name string
		config
		// change does it once more; answered reports whether there was an answer.
		change   func(cell)
		answered func(cell) bool
	}{
		{"reverted", config{auto: true}, cell.editSecret, func(c cell) bool { return c.secretState() == "v1" }},
		{"made again", config{auto: true}, cell.deleteSecret, func(c cell) bool { return c.secret(c.name) != nil }},
		{"pushed back", config{auto: true, both: true},
			func(c cell) {
				n++
				c.edit(map[string][]byte{"password": fmt.Append(nil, n)})
			},
			func(c cell) bool {
				h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
				return err == nil && string(h.Data["password"]) == fmt.Sprint(n)
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cell := cell{t, c.config, newNamespace(t), "db"}
			cell.create()
			cell.check("at first", time.Minute, inStep)
			c.change(cell)
			answers, began := 0, time.Now()
			// It goes on for a while after the last that is answered at once.
			await.NoError(t, 2*time.Minute, func(context.Context) error {
				if c.answered(cell) {
					answers++
					c.change(cell)
				}
				if answers < 20 || time.Since(began) < 15*time.Second {
					return fmt.Errorf("%d answers, want 20", answers)
				}
				return nil
			})
			took := time.Since(began)
			// 20 at once, one in 10 s then, and a few of what had changed nothing.
			if most := 24 + int(took/(10*time.Second)); answers > most {
				t.Errorf("%d answers in %s, want at most %d", answers, took, most)
			}
		})
	}
}

// TestKubectl waits and looks as people do.
func TestKubectl(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	kubectl := hsm.Kubectl(hsm.AdminKubeconfig)
	kubectl.Stdin = strings.NewReader(`
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMSecret
metadata:
  name: db
stringData:
  password: canary-4711
`)
	run := func(args ...string) string {
		t.Helper()
		stdout, _, err := kubectl.Run(t.Context(), append([]string{"--namespace=" + namespace}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return stdout
	}
	run("apply", "--server-side", "--filename=-")
	for _, condition := range []string{"Synced", "Ready", "Conflict=false"} {
		run("wait", "--for=condition="+condition, "hsmsecret/db", "--timeout=5m")
	}
	if table := run("get", "hsmsecret", "db"); !strings.Contains(table, "InSync") {
		t.Errorf("kubectl get shows no sync status:\n%s", table)
	}
	event(t, namespace, "HSMSecret", "db", "Created")
	described := run("describe", "hsmsecret", "db") + run("describe", "secret", "db") + run("get", "events", "-o", "yaml")
	if !strings.Contains(described, "Secret db was made from HSMSecret db") {
		t.Errorf("kubectl describe shows no event:\n%s", described)
	}
	if strings.Contains(run("get", "events", "-o", "yaml"), "canary") {
		t.Error("an event shows a value")
	}
	// The user may apply the same again, although the controller has written.
	kubectl.Stdin = strings.NewReader(`
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMSecret
metadata:
  name: db
stringData:
  password: second
`)
	run("apply", "--server-side", "--filename=-")
	await.NoError(t, time.Minute, func(context.Context) error {
		secret, err := core.CoreV1().Secrets(namespace).Get(t.Context(), "db", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if string(secret.Data["password"]) != "second" {
			return fmt.Errorf("the Secret is not changed yet")
		}
		return nil
	})
	run("delete", "hsmsecret", "db", "--wait")
	run("wait", "--for=delete", "secret/db", "--timeout=5m")
}
