// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/controlplane"
)

// rulesIn reads the rules of the Role or ClusterRole in a manifest.
func rulesIn(t *testing.T, manifest string) []rbacv1.PolicyRule {
	t.Helper()
	content, err := os.ReadFile(hsm.Manifest(manifest))
	if err != nil {
		t.Fatal(err)
	}
	for document := range bytes.SplitSeq(content, []byte("\n---\n")) {
		role := rbacv1.Role{}
		if err := yaml.Unmarshal(document, &role); err != nil {
			t.Fatal(err)
		}
		if len(role.Rules) > 0 {
			return role.Rules
		}
	}
	t.Fatalf("%s has no rules", manifest)
	return nil
}

// TestRights has the controller do everything that it can do: each right of its
// manifest is used. That none is missing is shown by all other tests.
func TestRights(t *testing.T) {
	namespace := newNamespace(t)
	createDeployment(t, namespace, "web")
	c := cell{t, config{auto: true, both: true}, namespace, "db"}
	c.create()
	c.check("at first", time.Minute, inStep)
	c.update(func(h *v1alpha1.HSMSecret) {
		for _, kind := range []v1alpha1.WorkloadKind{v1alpha1.WorkloadKindDeployment, v1alpha1.WorkloadKindStatefulSet, v1alpha1.WorkloadKindDaemonSet} {
			h.Spec.RolloutRestartTargets = append(h.Spec.RolloutRestartTargets, v1alpha1.RolloutRestartTarget{Kind: kind, Name: "web"})
		}
	})
	// Two events that are the same are one that is patched.
	for _, state := range []string{"t2", "v1"} {
		c.update(func(h *v1alpha1.HSMSecret) { h.Data = states[state] })
		c.check(state, time.Minute, want(state+" "+state+" InSync NoConflict"))
	}
	c.editSecret()
	c.check("edited", time.Minute, "s2 s2 InSync NoConflict")
	c.update(func(h *v1alpha1.HSMSecret) { h.Spec.SecretName = "new" })
	c.holds("new", "s2")

	methods := map[string]string{"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}
	for _, rule := range rulesIn(t, "controller-cluster-rbac.yaml") {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				if resource == "hsmsecrets/data" {
					continue // A name only: TestHiddenValues takes it away.
				}
				if verb == "create" && resource == "secrets" {
					continue // By an apply, which is a PATCH: kube-apiserver asks for both.
				}
				if verb == "list" {
					continue // In place of a watch, where that is not to be had.
				}
				c.await(time.Minute, func() error {
					if projector.proxy.count(func(c call) bool { return c.resource == resource && c.method == methods[verb] }) == 0 {
						return fmt.Errorf("the right to %s %s is not used", verb, resource)
					}
					return nil
				})
			}
		}
	}
	if all, listed := rulesIn(t, "controller-cluster-rbac.yaml"), rulesIn(t, "controller-namespace-rbac.yaml"); fmt.Sprint(all) != fmt.Sprint(listed) {
		t.Error("the rules for all namespaces and those for listed ones differ")
	}
}

// TestNamespaces runs a controller for two namespaces, with rights in these
// only.
func TestNamespaces(t *testing.T) {
	one, two, other := newNamespace(t, "one"), newNamespace(t, "two"), newNamespace(t, "other")
	bindings := core.RbacV1().ClusterRoleBindings()
	binding, err := bindings.Get(t.Context(), "hsm-controller", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	projector.Kill()
	if err := bindings.Delete(t.Context(), binding.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		binding.ResourceVersion, binding.UID = "", ""
		if _, err := bindings.Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
		if err := projector.restart(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	for _, namespace := range []string{one, two} {
		if err := applyManifest(t.Context(), "controller-namespace-rbac.yaml", "--namespace="+namespace); err != nil {
			t.Fatal(err)
		}
	}
	// Roles hold a moment later.
	client := controllerClient(t)
	await.NoError(t, time.Minute, func(context.Context) error {
		if may(t, client, two, "list", "") != nil {
			return fmt.Errorf("the Roles do not hold yet")
		}
		if may(t, client, other, "list", "") == nil {
			return fmt.Errorf("the ClusterRole still holds")
		}
		return nil
	})

	few, err := startController(t.Context(), "controller-few", "hsm-controller", "--namespaces="+one+","+two)
	if err != nil {
		t.Fatal(err)
	}
	defer few.stop()
	outside := cell{t, config{auto: true, both: true}, other, "db"}
	outside.create()
	for _, namespace := range []string{one, two} {
		c := cell{t, config{auto: true, both: true}, namespace, "db"}
		c.create()
		c.check("listed", time.Minute, inStep)
		c.editSecret()
		c.check("edited", time.Minute, "s2 s2 InSync NoConflict")
	}
	// It was made before the others, and nobody has looked at it.
	outside.check("not listed", time.Minute, "v1 - -(not yet) -")
	// A token is in one pool of the cluster, and the APIService in no namespace.
	everywhere := []string{"hsmdevices", "hsmpools", "apiservices"}
	if calls := few.proxy.count(func(c call) bool {
		return !slices.Contains([]string{one, two, cluster.SystemNamespace}, c.namespace) && !slices.Contains(everywhere, c.resource)
	}); calls > 0 {
		t.Errorf("%d calls outside of the namespaces: %s", calls, few.proxy.since(nil))
	}
}

// controllerClient is a client with the rights of the controller.
func controllerClient(t *testing.T) kubernetes.Interface {
	t.Helper()
	kubeconfig, err := hsm.AddServiceAccount(cluster.SystemNamespace, "hsm-controller")
	if err != nil {
		t.Fatal(err)
	}
	config, err := controlplane.Config(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// may is nil if a client may do something with hsmsecrets.
func may(t *testing.T, client kubernetes.Interface, namespace, verb, subresource string) error {
	t.Helper()
	review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Verb: verb, Group: "hsm.j5t.io", Resource: "hsmsecrets", Subresource: subresource,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if !review.Status.Allowed {
		return apierrors.NewForbidden(v1alpha1.SchemeGroupVersion.WithResource("hsmsecrets").GroupResource(), "", nil)
	}
	return nil
}

// TestHiddenValues takes the right to see values away from the controller, which
// is then shown all values as empty: no Secret is emptied. When the right is
// back, all goes on.
func TestHiddenValues(t *testing.T) {
	namespace := newNamespace(t)
	c := cell{t, config{auto: true, both: true}, namespace, "db"}
	c.create()
	c.check("at first", time.Minute, inStep)
	roles := core.RbacV1().ClusterRoles()
	change := func(rules func([]rbacv1.PolicyRule) []rbacv1.PolicyRule) {
		role, err := roles.Get(t.Context(), "hsm-controller", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		role.Rules = rules(role.Rules)
		if _, err := roles.Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ofValues := func(rule rbacv1.PolicyRule) bool { return slices.Contains(rule.Resources, "hsmsecrets/data") }
	change(func(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule { return slices.DeleteFunc(rules, ofValues) })
	restore := func() {
		change(func(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
			return append(rules, rbacv1.PolicyRule{APIGroups: []string{"hsm.j5t.io"}, Resources: []string{"hsmsecrets/data"}, Verbs: []string{"get"}})
		})
	}
	restored := false
	defer func() {
		if !restored {
			restore()
		}
	}()

	// API servers remember for a while that it was there.
	n := 0
	edit := func() {
		n++
		c.update(func(h *v1alpha1.HSMSecret) { h.Data = map[string][]byte{"password": fmt.Append(nil, "value-", n)} })
	}
	emptied := func() bool {
		secret := c.secret("db")
		return secret == nil || len(secret.Data["password"]) == 0
	}
	denied := func() string {
		h, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), "db", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return h.Status.LastError
	}
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	c.await(60*time.Second, func() error {
		edit()
		<-tick.C
		if emptied() {
			t.Fatal("the Secret was emptied")
		}
		if said := denied(); !strings.Contains(said, "hsmsecrets/data") {
			return fmt.Errorf("the status does not say that a right is missing, but %q", said)
		}
		return nil
	})
	restore()
	restored = true
	c.await(120*time.Second, func() error {
		if emptied() {
			t.Fatal("the Secret was emptied when the right was back")
		}
		if got, want := string(c.secret("db").Data["password"]), fmt.Sprint("value-", n); got != want {
			return fmt.Errorf("the Secret has %q, want %q", got, want)
		}
		return nil
	})
	awaitSynced(t, namespace, 1, time.Minute)
}
