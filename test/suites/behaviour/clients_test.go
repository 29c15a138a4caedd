// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

// TestFluxAppliesAgain: an edit of the Secret is on the token, and Flux applies its own again
// as its library does: a dry run by force, and, if that differs from what there is, the same
// in earnest. The token gets Flux's data, and the next dry run differs no more.
func TestFluxAppliesAgain(t *testing.T) {
	t.Parallel()
	c := cell{t, config{auto: true, both: true}, newNamespace(t), "db"}
	client, err := dynamic.NewForConfig(hsm.Admin)
	if err != nil {
		t.Fatal(err)
	}
	objects := client.Resource(v1alpha1.SchemeGroupVersion.WithResource("hsmsecrets")).Namespace(c.namespace)
	manifest := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.SchemeGroupVersion.String(), "kind": "HSMSecret",
		"metadata": map[string]any{"name": c.name, "labels": map[string]any{"kustomize.toolkit.fluxcd.io/name": "apps"}},
		"data":     map[string]any{"password": base64.StdEncoding.EncodeToString([]byte("one"))},
	}}
	apply := func(dryRun ...string) *unstructured.Unstructured {
		t.Helper()
		applied, err := objects.Apply(t.Context(), c.name, manifest, metav1.ApplyOptions{FieldManager: "kustomize-controller", Force: true, DryRun: dryRun})
		if err != nil {
			t.Fatal(err)
		}
		return applied
	}
	drifted := func() bool {
		t.Helper()
		existing, err := objects.Get(t.Context(), c.name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		planned := apply(metav1.DryRunAll)
		for _, object := range []*unstructured.Unstructured{existing, planned} {
			delete(object.Object, "metadata")
			delete(object.Object, "status")
		}
		return !equality.Semantic.DeepEqual(existing.Object, planned.Object)
	}
	inStepWith := func(password string) {
		t.Helper()
		c.await(time.Minute, func() error {
			if secret := c.secret(c.name); secret == nil || string(secret.Data["password"]) != password || c.token() != password {
				return fmt.Errorf("the token has %q, the Secret is %v; want %q", c.token(), secret, password)
			}
			return nil
		})
		c.metadataCurrent()
	}
	apply()
	inStepWith("one")
	c.patchSecret(`{"stringData":{"password":"two"}}`)
	inStepWith("two")
	if !drifted() {
		t.Error("Flux does not see the edit")
	}
	apply()
	inStepWith("one")
	if drifted() {
		t.Error("Flux sees a difference for ever")
	}
	before := c.hsmSecret().ResourceVersion
	apply()
	if after := c.hsmSecret().ResourceVersion; after != before {
		t.Errorf("the same once more has changed resourceVersion %s to %s", before, after)
	}
}

// TestConvertedManifests: a manifest of a Secret is one of an HSMSecret when apiVersion and
// kind are changed, and type is moved; the Secret that comes of it is the same.
func TestConvertedManifests(t *testing.T) {
	t.Parallel()
	original, converted := newNamespace(t, "original"), newNamespace(t, "converted")
	apply := func(namespace, manifest string) {
		t.Helper()
		kubectl := hsm.Kubectl(hsm.AdminKubeconfig)
		kubectl.Stdin = strings.NewReader(manifest)
		if _, _, err := kubectl.Run(t.Context(), "apply", "--namespace="+namespace, "--filename=-"); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct{ secretType, fields string }{
		"opaque":     {"Opaque", "data: {a: YQ==, empty: \"\"}\nstringData: {b: text}\n"},
		"none":       {"Opaque", ""},
		"immutable":  {"Opaque", "immutable: true\ndata: {a: YQ==}\n"},
		"tls":        {"kubernetes.io/tls", "data: {tls.crt: YQ==, tls.key: Yg==, ca.crt: Yw==}\n"},
		"docker":     {"kubernetes.io/dockerconfigjson", "stringData: {.dockerconfigjson: '{\"auths\":{}}'}\n"},
		"dockercfg":  {"kubernetes.io/dockercfg", "stringData: {.dockercfg: '{}'}\n"},
		"basic-auth": {"kubernetes.io/basic-auth", "stringData: {username: app, password: one}\n"},
		"ssh-auth":   {"kubernetes.io/ssh-auth", "stringData: {ssh-privatekey: one}\n"},
		"bootstrap":  {"bootstrap.kubernetes.io/token", "stringData: {token-id: abcdef}\n"},
		"own":        {"example.com/own", "data: {a: YQ==}\n"},
	} {
		head := "metadata: {name: " + name + "}\n"
		apply(original, "apiVersion: v1\nkind: Secret\ntype: "+c.secretType+"\n"+head+c.fields)
		apply(converted, "apiVersion: hsm.j5t.io/v1alpha1\nkind: HSMSecret\nspec: {secretType: "+c.secretType+"}\n"+head+c.fields)
		want := cell{t, config{}, original, name}.secret(name)
		await.NoError(t, time.Minute, func(context.Context) error {
			got := cell{t, config{}, converted, name}.secret(name)
			if got == nil {
				return fmt.Errorf("there is no Secret %s", name)
			}
			if got.Type != want.Type || !equality.Semantic.DeepEqual(got.Data, want.Data) || !equality.Semantic.DeepEqual(got.Immutable, want.Immutable) {
				return fmt.Errorf("Secret %s is %s %q, immutable %v; want %s %q, %v", name, got.Type, got.Data, got.Immutable, want.Type, want.Data, want.Immutable)
			}
			return nil
		})
	}
}
