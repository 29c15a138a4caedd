// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/yaml"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

// untyped is a client of the HSMSecrets of a namespace that knows no Go type of them.
func untyped(t *testing.T, namespace string) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(hsm.Admin)
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(v1alpha1.SchemeGroupVersion.WithResource("hsmsecrets")).Namespace(namespace)
}

// TestPlanEqualsResult plans and applies as Terraform does: the plan is a dry run, and every
// field of the result has the type that OpenAPI v2 and v3 say. What was not planned would
// end Terraform with an error.
func TestPlanEqualsResult(t *testing.T) {
	t.Parallel()
	u := admin(t)
	objects := untyped(t, u.namespace)
	const manager = "terraform"
	for name, fields := range map[string]string{
		"data": "metadata: {name: data, labels: {app: db}}\ndata: {password: b25l}\n",
		"all": `metadata: {name: all, annotations: {team: db}}
data: {tls.crt: b25l, tls.key: b25l}
immutable: true
spec:
  autoSync: false
  deletionPolicy: Retain
  hsmPath: secrets/` + u.namespace + `/any
  rolloutRestartTargets: [{kind: Deployment, name: web}]
  secretName: other
  secretType: kubernetes.io/tls
  syncDirection: HSMToSecret
  syncInterval: 60
  template: {metadata: {labels: {a: b}, annotations: {c: d}}}
`,
	} {
		object := &unstructured.Unstructured{}
		manifest := "apiVersion: hsm.j5t.io/v1alpha1\nkind: HSMSecret\n" + fields
		if err := yaml.Unmarshal([]byte(manifest), &object.Object); err != nil {
			t.Fatal(err)
		}
		plan, err := objects.Apply(t.Context(), name, object, metav1.ApplyOptions{FieldManager: manager, DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			t.Fatal(err)
		}
		result, err := objects.Apply(t.Context(), name, object, metav1.ApplyOptions{FieldManager: manager})
		if err != nil {
			t.Fatal(err)
		}
		if plan, result := planned(plan), planned(result); !equality.Semantic.DeepEqual(plan, result) {
			t.Errorf("%s: planned %v\nbut made %v", name, plan, result)
		}
		describedByOpenAPI(t, object, result, manager)
	}
}

// planned is an object without what only a write can know.
func planned(object *unstructured.Unstructured) map[string]any {
	object = object.DeepCopy()
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(object.Object, "status")
	return object.Object
}

// describedByOpenAPI reads a result as clients do that know no Go type: by OpenAPI v2, which
// tells what of it the manager has applied; and by v3.
func describedByOpenAPI(t *testing.T, applied, result *unstructured.Unstructured, manager string) {
	t.Helper()
	server, err := discovery.NewDiscoveryClientForConfig(hsm.Admin)
	if err != nil {
		t.Fatal(err)
	}
	extractor, err := applymeta.NewUnstructuredExtractor(server)
	if err != nil {
		t.Fatal(err)
	}
	want := applied.DeepCopy()
	want.SetNamespace(result.GetNamespace())
	if extracted, err := extractor.Extract(result, manager); err != nil || !equality.Semantic.DeepEqual(extracted, want) {
		t.Errorf("by OpenAPI v2, %v\nhas of %s %v, %v", result, manager, extracted, err)
	}
	document, err := openapi3.NewRoot(server.OpenAPIV3()).GVSpec(v1alpha1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	types, err := managedfields.NewTypeConverter(document.Components.Schemas, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := types.ObjectToTyped(result); err != nil {
		t.Errorf("by OpenAPI v3, %v: %v", result, err)
	}
	odd := result.DeepCopy()
	if err := unstructured.SetNestedField(odd.Object, "x", "spec", "odd"); err != nil {
		t.Fatal(err)
	}
	if _, err := types.ObjectToTyped(odd); err == nil {
		t.Error("by OpenAPI v3, any field is one: this proves nothing")
	}
}

// TestWatchHeadersAtOnce: the headers of a watch come before its first event. Clients that
// wait for them, as those of Node and Python do, would hang otherwise.
func TestWatchHeadersAtOnce(t *testing.T) {
	t.Parallel()
	u := admin(t)
	list, err := clientset(t).HsmV1alpha1().HSMSecrets(u.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(hsm.Admin)
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("%s/apis/%s/namespaces/%s/hsmsecrets?watch=true&resourceVersion=%s",
		hsm.Admin.Host, v1alpha1.SchemeGroupVersion, u.namespace, list.ResourceVersion)
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit(30*time.Second))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	// It returns with the headers, and nothing has happened yet.
	response, err := client.Do(request)
	if err != nil {
		t.Fatalf("a watch without events: %v", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("a watch begins with %s, %v", response.Status, response.Header)
	}
	u.apply(db("db", "one"))
	if line, err := bufio.NewReader(response.Body).ReadString('\n'); err != nil || !strings.Contains(line, `"ADDED"`) {
		t.Errorf("the first event is %q, %v", line, err)
	}
}

// TestHelm installs, upgrades, rolls back and uninstalls by the requests that Helm sends for
// a kind that it has no Go type of: a create, then merge patches of three manifests: the last
// one, the next one, and what there is.
func TestHelm(t *testing.T) {
	t.Parallel()
	u := admin(t)
	objects := untyped(t, u.namespace)
	render := func(fields string) map[string]any {
		t.Helper()
		manifest := map[string]any{}
		text := "apiVersion: hsm.j5t.io/v1alpha1\nkind: HSMSecret\nmetadata:\n  name: db\n  labels: {app.kubernetes.io/managed-by: Helm}\n" + fields
		if err := yaml.Unmarshal([]byte(text), &manifest); err != nil {
			t.Fatal(err)
		}
		return manifest
	}
	encode := func(object any) []byte {
		t.Helper()
		content, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	upgrade := func(from, to map[string]any) (changed bool) {
		t.Helper()
		live, err := objects.Get(t.Context(), "db", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(encode(from), encode(to), encode(live.Object))
		if err != nil {
			t.Fatal(err)
		}
		patched, err := objects.Patch(t.Context(), "db", types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "helm"})
		if err != nil {
			t.Fatalf("%s: %v", patch, err)
		}
		return patched.GetResourceVersion() != live.GetResourceVersion()
	}
	data := func() string { t.Helper(); return u.run("get", "hsmsecret", "db", "-o", "jsonpath={.data}") }

	first := render("data: {password: b25l, user: YXBw}\n")
	if _, err := objects.Create(t.Context(), &unstructured.Unstructured{Object: first}, metav1.CreateOptions{FieldManager: "helm"}); err != nil {
		t.Fatal(err)
	}
	u.expect("installed", data(), `{"password":"b25l","user":"YXBw"}`)
	if upgrade(first, first) {
		t.Error("an upgrade to the same writes something")
	}
	// A chart that keeps what it has generated looks it up.
	kept := u.run("get", "hsmsecret", "db", "-o", "jsonpath={.data.password}")
	second := render("data: {password: " + kept + ", host: aA==}\n")
	upgrade(first, second)
	u.expect("upgraded", data(), `{"host":"aA==","password":"b25l"}`)
	upgrade(second, first)
	u.expect("rolled back", data(), `{"password":"b25l","user":"YXBw"}`)
	text := render("stringData: {password: two, user: app}\n")
	upgrade(first, text)
	u.expect("upgraded to stringData", data(), `{"password":"dHdv","user":"YXBw"}`)
	upgrade(text, render("stringData: {password: three, user: app}\n"))
	u.expect("another value", data(), `{"password":"dGhyZWU=","user":"YXBw"}`)
	policy := metav1.DeletePropagationBackground
	if err := objects.Delete(t.Context(), "db", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		t.Fatal(err)
	}
	contains(t, u.fail("get", "hsmsecret", "db"), "NotFound")
}
