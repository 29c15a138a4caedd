// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	typed "j5t.io/hsm/pkg/generated/clientset/versioned/typed/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/pki"
)

var everyChange = []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update, admissionregistrationv1.Delete}

// hsmSecrets is a rule for HSMSecrets.
func hsmSecrets(operations ...admissionregistrationv1.OperationType) admissionregistrationv1.RuleWithOperations {
	return admissionregistrationv1.RuleWithOperations{
		Operations: operations,
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{"hsm.j5t.io"}, APIVersions: []string{"v1alpha1"}, Resources: []string{"hsmsecrets"}},
	}
}

func inNamespace(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}}
}

// refused waits until a dry run of a create fails as wanted: configurations
// reach the server within moments.
func refused(t *testing.T, client typed.HSMSecretInterface, name, message string) {
	t.Helper()
	await.NoError(t, 30*time.Second, func(context.Context) error {
		_, err := client.Create(t.Context(), secret(name, "one"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil || !strings.Contains(err.Error(), message) {
			return fmt.Errorf("want %q, got %w", message, err)
		}
		return nil
	})
}

// webhooks is a server that labels what is created, and refuses what is named
// "bad", to be created or to be deleted.
func webhooks(t *testing.T) (url string, bundle []byte) {
	t.Helper()
	ca, err := pki.NewCA(t.TempDir())
	must(t, err)
	certFile, keyFile, err := ca.Issue("webhook", pki.Server)
	must(t, err)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		asked := review.Request
		answer := &admissionv1.AdmissionResponse{UID: asked.UID, Allowed: true}
		switch {
		case r.URL.Path == "/mutate":
			answer.PatchType = ptr.To(admissionv1.PatchTypeJSONPatch)
			answer.Patch = fmt.Appendf(nil, `[{"op": "add", "path": "/metadata/labels", "value": {"by": %q}}]`, asked.UserInfo.Username)
		case strings.HasPrefix(asked.Name, "bad"):
			answer.Allowed = false
			answer.Result = &metav1.Status{Code: http.StatusTeapot, Message: fmt.Sprintf("no %s of %s %s", asked.Operation, asked.Kind.Kind, asked.Name)}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: answer})
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, ca.Bundle
}

// TestWebhooks changes and refuses HSMSecrets by webhooks of the host cluster.
func TestWebhooks(t *testing.T) {
	ns := namespace(t)
	client := secrets(t, hsm.Admin, ns)
	// Created before there is anybody to refuse it.
	_, err := client.Create(t.Context(), secret("bad-old", "one"), metav1.CreateOptions{})
	must(t, err)
	url, bundle := webhooks(t)
	config := func(path string) admissionregistrationv1.WebhookClientConfig {
		return admissionregistrationv1.WebhookClientConfig{URL: ptr.To(url + path), CABundle: bundle}
	}
	none, fail := ptr.To(admissionregistrationv1.SideEffectClassNone), ptr.To(admissionregistrationv1.Fail)
	name := metav1.ObjectMeta{Name: ns}
	registration := host.AdmissionregistrationV1()
	_, err = registration.MutatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: name,
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "mutate.example.com", ClientConfig: config("/mutate"), Rules: []admissionregistrationv1.RuleWithOperations{hsmSecrets(admissionregistrationv1.Create)},
			NamespaceSelector: inNamespace(ns), SideEffects: none, FailurePolicy: fail, AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = registration.ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: name,
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "validate.example.com", ClientConfig: config("/validate"), Rules: []admissionregistrationv1.RuleWithOperations{hsmSecrets(everyChange...)},
			NamespaceSelector: inNamespace(ns), SideEffects: none, FailurePolicy: fail, AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	must(t, err)

	refused(t, client, "bad", `admission webhook "validate.example.com" denied the request: no CREATE of HSMSecret bad`)
	if err := client.Delete(t.Context(), "bad-old", metav1.DeleteOptions{}); err == nil || !strings.Contains(err.Error(), "no DELETE of HSMSecret bad-old") {
		t.Errorf("the webhook was not asked about the deletion: %v", err)
	}
	await.NoError(t, 30*time.Second, func(context.Context) error {
		made, err := client.Create(t.Context(), secret("good", "one"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil || made.Labels["by"] != "admin" {
			return fmt.Errorf("want a label by the webhook, got %v, %w", made.Labels, err)
		}
		return nil
	})
	made, err := client.Create(t.Context(), secret("good", "one"), metav1.CreateOptions{})
	must(t, err)
	if made.Labels["by"] != "admin" {
		t.Errorf("labels %v", made.Labels)
	}
	must(t, client.Delete(t.Context(), "good", metav1.DeleteOptions{}))
}

// TestValidatingAdmissionPolicy refuses HSMSecrets by a policy in CEL.
func TestValidatingAdmissionPolicy(t *testing.T) {
	ns := namespace(t)
	client := secrets(t, hsm.Admin, ns)
	policy(t, ns, admissionregistrationv1.ValidatingAdmissionPolicySpec{
		Validations: []admissionregistrationv1.Validation{{
			Expression:        "!object.metadata.name.startsWith('bad')",
			MessageExpression: "'HSMSecrets of ' + namespaceObject.metadata.name + ' are good'",
		}},
	}, nil)
	refused(t, client, "bad", "HSMSecrets of "+ns+" are good")
	_, err := client.Create(t.Context(), secret("good", "one"), metav1.CreateOptions{})
	must(t, err)
}

// TestPolicyWithParameters needs, beyond the rights of the manifests, the right
// to read what the parameters are.
func TestPolicyWithParameters(t *testing.T) {
	ns := namespace(t)
	client := secrets(t, hsm.Admin, ns)
	_, err := host.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "hsm-apiserver-parameters"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "watch"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	grant(t, "", "hsm-apiserver-parameters", user("system:serviceaccount:hsm-system:hsm-apiserver"))
	_, err = host.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "parameters"}, Data: map[string]string{"prefix": "bad"},
	}, metav1.CreateOptions{})
	must(t, err)
	policy(t, ns, admissionregistrationv1.ValidatingAdmissionPolicySpec{
		ParamKind:   &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
		Validations: []admissionregistrationv1.Validation{{Expression: "!object.metadata.name.startsWith(params.data.prefix)", Message: "so says the ConfigMap"}},
	}, &admissionregistrationv1.ParamRef{Name: "parameters", Namespace: ns, ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction)})
	refused(t, client, "bad", "so says the ConfigMap")
	_, err = client.Create(t.Context(), secret("good", "one"), metav1.CreateOptions{})
	must(t, err)
}

// policy binds a policy for HSMSecrets to a namespace.
func policy(t *testing.T, ns string, spec admissionregistrationv1.ValidatingAdmissionPolicySpec, parameters *admissionregistrationv1.ParamRef) {
	t.Helper()
	spec.MatchConstraints = &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{
		{RuleWithOperations: hsmSecrets(admissionregistrationv1.Create, admissionregistrationv1.Update)},
	}}
	name := metav1.ObjectMeta{Name: ns}
	_, err := host.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(t.Context(),
		&admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: name, Spec: spec}, metav1.CreateOptions{})
	must(t, err)
	_, err = host.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: name,
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: ns, ParamRef: parameters,
			MatchResources:    &admissionregistrationv1.MatchResources{NamespaceSelector: inNamespace(ns)},
			ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}, metav1.CreateOptions{})
	must(t, err)
}

// TestMutatingAdmissionPolicy labels HSMSecrets by a policy in CEL, which has
// been generally available since Kubernetes 1.36.
func TestMutatingAdmissionPolicy(t *testing.T) {
	ns := namespace(t)
	client := secrets(t, hsm.Admin, ns)
	name := metav1.ObjectMeta{Name: ns}
	registration := host.AdmissionregistrationV1()
	_, err := registration.MutatingAdmissionPolicies().Create(t.Context(), &admissionregistrationv1.MutatingAdmissionPolicy{
		ObjectMeta: name,
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{
				{RuleWithOperations: hsmSecrets(admissionregistrationv1.Create)},
			}},
			ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
			Mutations: []admissionregistrationv1.Mutation{{
				PatchType: admissionregistrationv1.PatchTypeApplyConfiguration,
				ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{
					Expression: `Object{metadata: Object.metadata{labels: Object.metadata.labels{by: "policy"}}}`,
				},
			}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = registration.MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: name,
		Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{
			PolicyName: ns, MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: inNamespace(ns)},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	await.NoError(t, 30*time.Second, func(context.Context) error {
		made, err := client.Create(t.Context(), secret("db", "one"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil || made.Labels["by"] != "policy" {
			return fmt.Errorf("want a label by the policy, got %w", err)
		}
		return nil
	})
	made, err := client.Create(t.Context(), secret("db", "one"), metav1.CreateOptions{})
	must(t, err)
	if made.Labels["by"] != "policy" || string(made.Data["password"]) != "one" {
		t.Errorf("labels %v, %d bytes of data", made.Labels, len(made.Data["password"]))
	}
}

// TestTerminatingNamespace takes no new objects.
func TestTerminatingNamespace(t *testing.T) {
	ns := namespace(t)
	client := secrets(t, hsm.Admin, ns)
	held := secret("held", "one")
	held.Finalizers = []string{"example.com/held"}
	_, err := client.Create(t.Context(), held, metav1.CreateOptions{})
	must(t, err)
	must(t, host.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}))
	await.NoError(t, 30*time.Second, func(context.Context) error {
		_, err := client.Create(t.Context(), secret("late", "one"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return fmt.Errorf("want Forbidden in a namespace that is being deleted, got %w", err)
		}
		return nil
	})
	held, err = client.Get(t.Context(), "held", metav1.GetOptions{})
	must(t, err)
	held.Finalizers = nil
	_, err = client.Update(t.Context(), held, metav1.UpdateOptions{})
	must(t, err)
	await.NoError(t, 60*time.Second, func(context.Context) error {
		_, err := host.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the namespace is still there: %w", err)
		}
		return nil
	})
}
