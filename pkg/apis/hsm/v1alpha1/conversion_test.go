// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return scheme
}

func toInternal(t *testing.T, secret *v1alpha1.HSMSecret) *hsm.HSMSecret {
	t.Helper()
	var internal hsm.HSMSecret
	if err := newScheme().Convert(secret, &internal, nil); err != nil {
		t.Fatal(err)
	}
	return &internal
}

func toExternal(t *testing.T, secret *hsm.HSMSecret) *v1alpha1.HSMSecret {
	t.Helper()
	var external v1alpha1.HSMSecret
	if err := newScheme().Convert(secret, &external, nil); err != nil {
		t.Fatal(err)
	}
	return &external
}

func TestStringDataFoldsIntoData(t *testing.T) {
	t.Parallel()
	in := &v1alpha1.HSMSecret{
		Data:       map[string][]byte{"both": []byte("data"), "data": []byte("data")},
		StringData: map[string]string{"both": "string", "string": "string"},
	}
	out := toExternal(t, toInternal(t, in))
	if out.StringData != nil {
		t.Errorf("stringData is given back: %v", out.StringData)
	}
	for name, want := range map[string]string{"both": "string", "data": "data", "string": "string"} {
		if got := string(out.Data[name]); got != want {
			t.Errorf("data[%s] = %q, want %q", name, got, want)
		}
	}
	if string(in.Data["both"]) != "data" || len(in.Data) != 2 {
		t.Errorf("conversion changed its input: %v", in.Data)
	}
	if only := toInternal(t, &v1alpha1.HSMSecret{StringData: map[string]string{"a": "b"}}); string(only.Data["a"]) != "b" {
		t.Errorf("stringData without data is lost: %v", only.Data)
	}
}

func TestAutoSyncFalseSurvives(t *testing.T) {
	t.Parallel()
	decoded := &v1alpha1.HSMSecret{}
	if err := json.Unmarshal([]byte(`{"spec":{"autoSync":false}}`), decoded); err != nil {
		t.Fatal(err)
	}
	newScheme().Default(decoded)
	encoded, err := json.Marshal(toExternal(t, toInternal(t, decoded)))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(encoded), `"autoSync":false`) {
		t.Errorf("autoSync: false is lost: %s", encoded)
	}
}

func TestLastAppliedIsBlanked(t *testing.T) {
	t.Parallel()
	const value = "canary"
	for name, test := range map[string]struct{ in, want string }{
		"data":          {`{"apiVersion":"hsm.j5t.io/v1alpha1","data":{"a":"canary"},"kind":"HSMSecret"}`, `{"apiVersion":"hsm.j5t.io/v1alpha1","data":{"a":""},"kind":"HSMSecret"}` + "\n"},
		"stringData":    {`{"stringData":{"a":"canary","b":"canary"}}`, `{"stringData":{"a":"","b":""}}` + "\n"},
		"spec stays":    {`{"spec":{"hsmPath":"secrets/a/<&>"}}`, `{"spec":{"hsmPath":"secrets/a/<&>"}}` + "\n"},
		"unknown field": {`{"Data":{"a":"canary"},"kind":"HSMSecret"}`, `{"kind":"HSMSecret"}` + "\n"},
		"no JSON":       {`data: {a: canary}`, ""},
		"no object":     {`{"data":"canary"}`, ""},
		"null":          {`{"data":null}`, `{"data":null}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &v1alpha1.HSMSecret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
				corev1.LastAppliedConfigAnnotation: test.in, "other": "stays",
			}}}
			once := toExternal(t, toInternal(t, in))
			got, ok := once.Annotations[corev1.LastAppliedConfigAnnotation]
			if got != test.want || ok != (test.want != "") {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if strings.Contains(got, value) {
				t.Errorf("the value is still there: %q", got)
			}
			if once.Annotations["other"] != "stays" {
				t.Errorf("another annotation is lost: %v", once.Annotations)
			}
			if in.Annotations[corev1.LastAppliedConfigAnnotation] != test.in {
				t.Error("conversion changed its input")
			}
			if twice := toInternal(t, once); twice.Annotations[corev1.LastAppliedConfigAnnotation] != got {
				t.Errorf("blanking again gives %q, not %q", twice.Annotations[corev1.LastAppliedConfigAnnotation], got)
			}
		})
	}
}

// kubectl apply computes its patch from the annotation (original), the manifest
// (modified) and the live object (current).
func TestKubectlApplyPrunesWithBlankedValues(t *testing.T) {
	t.Parallel()
	applied := toInternal(t, &v1alpha1.HSMSecret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
		corev1.LastAppliedConfigAnnotation: `{"data":{"gone":"dg==","kept":"dg=="}}`,
	}}})
	original := []byte(applied.Annotations[corev1.LastAppliedConfigAnnotation])
	modified := []byte(`{"data":{"kept":"dg=="}}`)
	current := []byte(`{"data":{"gone":"dg==","kept":"dg==","foreign":"dg=="}}`)
	patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(original, modified, current)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"data":{"gone":null}}`; string(patch) != want {
		t.Errorf("patch is %s, want %s", patch, want)
	}
}

func TestFieldLabels(t *testing.T) {
	t.Parallel()
	kind := v1alpha1.SchemeGroupVersion.WithKind("HSMSecret")
	for label, want := range map[string]string{
		"metadata.name":      "metadata.name",
		"metadata.namespace": "metadata.namespace",
		"type":               hsm.SecretTypeField,
		"spec.secretType":    hsm.SecretTypeField,
		"spec.secretName":    hsm.SecretNameField,
		"spec.hsmPath":       hsm.HSMPathField,
	} {
		got, value, err := newScheme().ConvertFieldLabel(kind, label, "value")
		if err != nil || got != want || value != "value" {
			t.Errorf("%s converts to %s=%s, %v; want %s=value", label, got, value, err, want)
		}
	}
	if _, _, err := newScheme().ConvertFieldLabel(kind, "data", ""); err == nil || !strings.Contains(err.Error(), "spec.secretType") {
		t.Errorf("selecting by data gives error %v, want one that names what can be selected by", err)
	}
}
