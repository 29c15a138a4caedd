// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

// replaceSecret replaces the Secret as people do who read that this is how to
// change one: nothing that the controller has put on it stays.
func (c cell) replaceSecret(password string) {
	c.Helper()
	kubectl := hsm.Kubectl(hsm.AdminKubeconfig)
	manifest, _, err := kubectl.Run(c.Context(), "create", "secret", "generic", c.name, "--namespace="+c.namespace,
		"--from-literal=password="+password, "--dry-run=client", "--output=yaml")
	if err != nil {
		c.Fatal(err)
	}
	kubectl.Stdin = strings.NewReader(manifest)
	if _, _, err := kubectl.Run(c.Context(), "replace", "--filename=-"); err != nil {
		c.Fatal(err)
	}
}

// token is the value that the token holds.
func (c cell) token() string {
	c.Helper()
	return string(c.hsmSecret().Data["password"])
}

func (c cell) hsmSecret() *v1alpha1.HSMSecret {
	c.Helper()
	h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return h
}

// TestSecretReplacedAsAWhole: the Secret is still the one that was made. What was on it
// comes back, and the edit is an edit.
func TestSecretReplacedAsAWhole(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	for _, config := range configs() {
		t.Run(config.String(), func(t *testing.T) {
			t.Parallel()
			c := cell{t, config, namespace, config.String()}
			c.create()
			c.check("at first", time.Minute, inStep)
			uid := c.secret(c.name).UID

			c.patchSecret(`{"metadata":{"labels":null,"annotations":null,"ownerReferences":null}}`)
			c.check("without metadata", 20*time.Second, inStep)
			c.metadataCurrent()

			c.replaceSecret("two")
			want := "v1"
			switch {
			case !c.auto:
				c.awaitReason(true, "AutoSyncOff", "")
			case c.both:
				want = "two"
				fallthrough
			default:
				c.await(20*time.Second, func() error {
					if got := string(c.secret(c.name).Data["password"]); got != want || c.token() != want {
						return fmt.Errorf("%s: the Secret has %q, the token %q; want %q", c.name, got, c.token(), want)
					}
					return nil
				})
				c.metadataCurrent()
			}
			if c.token() != want {
				t.Errorf("the token has %q, want %q", c.token(), want)
			}
			if c.secret(c.name).UID != uid {
				t.Error("it is another Secret now")
			}
			c.deleteHSMSecret()
			c.await(time.Minute, func() error {
				if stays := c.secret(c.name) != nil; stays != c.retain {
					return fmt.Errorf("%s: the Secret stays: %t", c.name, stays)
				}
				return nil
			})
		})
	}
}

// condition returns a condition, or an empty one.
func (c cell) condition(conditionType string) metav1.Condition {
	c.Helper()
	if found := meta.FindStatusCondition(c.hsmSecret().Status.Conditions, conditionType); found != nil {
		return *found
	}
	return metav1.Condition{}
}

// TestSecretWithFinalizer has to be made again, and cannot go: the controller waits, says
// so, and goes on when the finalizer is gone.
func TestSecretWithFinalizer(t *testing.T) {
	t.Parallel()
	c := cell{t, config{auto: true, both: true}, newNamespace(t), "db"}
	c.create()
	c.check("at first", time.Minute, inStep)
	uid := c.secret(c.name).UID
	c.patchSecret(`{"immutable":true,"metadata":{"finalizers":["example.com/f"],"labels":{"mine":"1"}}}`)
	c.changeToken()
	c.awaitReason(true, "SecretTerminating", "")
	ready, synced := c.condition(v1alpha1.HSMSecretReady), c.condition(v1alpha1.HSMSecretSynced)
	if ready.Status != metav1.ConditionFalse || synced.Status != metav1.ConditionFalse || !strings.Contains(synced.Message, "example.com/f") {
		t.Errorf("the conditions are %+v and %+v", ready, synced)
	}
	// Two of the controller's checks later nothing more has happened.
	began, before := time.Now(), projector.proxy.count(func(k call) bool { return k.namespace == c.namespace && k.writes() })
	await.NoError(t, time.Minute, func(context.Context) error {
		if time.Since(began) < 22*time.Second {
			return fmt.Errorf("wait for two checks")
		}
		return nil
	})
	if after := projector.proxy.count(func(k call) bool { return k.namespace == c.namespace && k.writes() }); after > before+2 {
		t.Errorf("the controller wrote %d times while it waited", after-before)
	}
	c.patchSecret(`{"metadata":{"finalizers":null}}`)
	c.check("in the end", 20*time.Second, "t2 t2 InSync NoConflict")
	if c.secret(c.name).UID == uid {
		t.Error("the Secret was not made again")
	}
	if ready := c.condition(v1alpha1.HSMSecretReady); ready.Status != metav1.ConditionTrue {
		t.Errorf("the condition is %+v", ready)
	}
}

// TestSwap has HSMSecrets swap the names of their Secrets in one go, in a circle, whoever
// came first: each gets the one that it wants.
func TestSwap(t *testing.T) {
	t.Parallel()
	for _, count := range []int{2, 3, 5} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			t.Parallel()
			namespace := newNamespace(t)
			name := func(i int) string { return fmt.Sprintf("color-%d", i%count) }
			secret := func(i int) string { return fmt.Sprintf("slot-%d", i%count) }
			for i := range count {
				createNamed(t, namespace, name(i), secret(i), "of "+name(i))
			}
			for i := range count {
				awaitConflict(t, time.Minute, namespace, name(i), "NoConflict", secret(i), "of "+name(i))
			}
			for turn := range 2 {
				for i := range count {
					c := cell{t, config{}, namespace, name(i)}
					c.update(func(h *v1alpha1.HSMSecret) { h.Spec.SecretName = secret(i + turn + 1) })
				}
				for i := range count {
					awaitConflict(t, 40*time.Second, namespace, name(i), "NoConflict", secret(i+turn+1), "of "+name(i))
				}
			}
			left, err := core.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil || len(left.Items) != count {
				t.Errorf("%d Secrets, %v; want %d", len(left.Items), err, count)
			}
		})
	}
}

// TestSecretDeletedAgainAndAgain: while there is no Secret, no status says that it can
// be used.
func TestSecretDeletedAgainAndAgain(t *testing.T) {
	t.Parallel()
	c := cell{t, config{auto: true, both: true}, newNamespace(t), "db"}
	c.create()
	c.check("at first", time.Minute, inStep)
	for deleted := 0; deleted < 24 && c.condition(v1alpha1.HSMSecretReady).Status == metav1.ConditionTrue; {
		if c.secret(c.name) != nil {
			c.deleteSecret()
			deleted++
		}
	}
	c.await(9*time.Second, func() error {
		ready := c.condition(v1alpha1.HSMSecretReady)
		if c.secret(c.name) == nil && (ready.Status != metav1.ConditionFalse || ready.Reason != "EditedTooOften") {
			return fmt.Errorf("there is no Secret, and the condition is %+v", ready)
		}
		return nil
	})
	c.check("in the end", time.Minute, inStep)
	if ready := c.condition(v1alpha1.HSMSecretReady); ready.Status != metav1.ConditionTrue {
		t.Errorf("the condition is %+v", ready)
	}
}

// TestTemplate: labels and annotations that the HSMSecret declares are on the Secret, also
// on one that was made again; those of others stay.
func TestTemplate(t *testing.T) {
	t.Parallel()
	c := cell{t, config{auto: true, both: true}, newNamespace(t), "db"}
	c.create()
	c.check("at first", time.Minute, inStep)
	template := func(labels, annotations map[string]string) {
		c.update(func(h *v1alpha1.HSMSecret) {
			h.Spec.Template = &v1alpha1.SecretTemplate{Metadata: v1alpha1.SecretTemplateMetadata{Labels: labels, Annotations: annotations}}
		})
	}
	const kind = "argocd.argoproj.io/secret-type"
	has := func(labels, annotations map[string]string) {
		t.Helper()
		c.await(20*time.Second, func() error {
			secret := c.secret(c.name)
			if secret == nil {
				return fmt.Errorf("there is no Secret")
			}
			for key, value := range labels {
				if secret.Labels[key] != value {
					return fmt.Errorf("label %s is %q, want %q", key, secret.Labels[key], value)
				}
			}
			for key, value := range annotations {
				if secret.Annotations[key] != value {
					return fmt.Errorf("annotation %s is %q, want %q", key, secret.Annotations[key], value)
				}
			}
			return nil
		})
	}
	template(map[string]string{kind: "repository", "gone": "soon"}, map[string]string{"a": "b"})
	has(map[string]string{kind: "repository", "gone": "soon"}, map[string]string{"a": "b"})
	c.patchSecret(`{"metadata":{"labels":{"` + kind + `":null}}}`)
	has(map[string]string{kind: "repository"}, nil)
	c.deleteSecret()
	has(map[string]string{kind: "repository", "gone": "soon"}, map[string]string{"a": "b"})

	// Of others.
	c.patchSecret(`{"metadata":{"labels":{"mine":"1"},"annotations":{"theirs":"2"}}}`)
	template(map[string]string{kind: "cluster"}, nil)
	has(map[string]string{kind: "cluster", "gone": "", "mine": "1"}, map[string]string{"a": "", "theirs": "2"})
	uid := c.secret(c.name).UID
	c.patchSecret(`{"immutable":true}`)
	c.changeToken()
	c.await(20*time.Second, func() error {
		if secret := c.secret(c.name); secret == nil || secret.UID == uid {
			return fmt.Errorf("the Secret was not made again")
		}
		return nil
	})
	has(map[string]string{kind: "cluster", "gone": "", "mine": "1"}, map[string]string{"a": "", "theirs": "2"})
	c.check("in the end", 20*time.Second, "t2 t2 InSync NoConflict")
	c.metadataCurrent()
	// The next write of the controller leaves them.
	c.update(func(h *v1alpha1.HSMSecret) { h.Data = states["v1"] })
	c.check("changed again", 20*time.Second, inStep)
	has(map[string]string{kind: "cluster", "mine": "1"}, map[string]string{"theirs": "2"})
}
