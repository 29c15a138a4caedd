// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestKustomize builds with a prefix: with the configuration that is shipped, what names
// the HSMSecret's Secret, and the workload that it restarts, follows.
func TestKustomize(t *testing.T) {
	t.Parallel()
	u := admin(t)
	dir := t.TempDir()
	configuration, err := os.ReadFile("../../../artifacts/gitops/kustomize/namereference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"namereference.yaml": string(configuration),
		"kustomization.yaml": "namePrefix: prod-\nresources: [all.yaml]\nconfigurations: [namereference.yaml]\n",
		"all.yaml": `apiVersion: hsm.j5t.io/v1alpha1
kind: HSMSecret
metadata: {name: db}
spec:
  rolloutRestartTargets: [{kind: Deployment, name: web}]
stringData: {password: one}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}]
        envFrom: [{secretRef: {name: db}}]
      volumes: [{name: v, secret: {secretName: db}}]
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u.run("apply", "-k", dir)
	get := func(kind, name, path string) string { return u.run("get", kind, name, "-o", "jsonpath="+path) }
	u.expect("target", get("hsmsecret", "prod-db", "{.spec.rolloutRestartTargets[0].name}"), "prod-web")
	pod := "{.spec.template.spec"
	u.expect("references", fmt.Sprint(
		get("deployment", "prod-web", pod+".containers[0].env[0].valueFrom.secretKeyRef.name}"), " ",
		get("deployment", "prod-web", pod+".containers[0].envFrom[0].secretRef.name}"), " ",
		get("deployment", "prod-web", pod+".volumes[0].secret.secretName}")), "prod-db prod-db prod-db")
}

// TestManifestOfTheOlderOperator: the error, or the warning, names what to change.
func TestManifestOfTheOlderOperator(t *testing.T) {
	t.Parallel()
	u := admin(t)
	const manifest = "apiVersion: hsm.j5t.io/v1alpha1\nkind: HSMSecret\nmetadata: {name: old}\nspec:\n  autoSync: true\n"
	contains(t, u.with(manifest+"  parentRef: {name: controller-manager, namespace: hsm}\n").fail("apply", "-f", "-"), `unknown field "spec.parentRef"`)
	_, stderr, err := u.with(manifest+"  hsmPath: secrets/"+u.namespace+"/old\n").try("apply", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, stderr, "Warning", "data", "docs/migration.md")
	contains(t, u.with(manifest+"  secretType: kubernetes.io/tls\n").fail("create", "-f", "-"), "data[tls.crt]", "needs this key")
}

// TestUnchangedApply: kubectl diff shows nothing after an apply, for data and stringData, and
// an apply of the same manifest writes nothing.
func TestUnchangedApply(t *testing.T) {
	t.Parallel()
	u := admin(t)
	for name, manifest := range map[string]string{
		"data":   db("data", "one"),
		"string": "apiVersion: hsm.j5t.io/v1alpha1\nkind: HSMSecret\nmetadata: {name: string}\nstringData: {password: one}\n",
	} {
		u.apply(manifest)
		before := u.resourceVersion(name)
		u.expect("diff", u.with(manifest).run("diff", "-f", "-"), "")
		u.apply(manifest)
		u.apply(manifest, "--server-side", "--force-conflicts")
		again := u.resourceVersion(name)
		u.expect("diff, server side", u.with(manifest).run("diff", "--server-side", "--force-conflicts", "-f", "-"), "")
		u.apply(manifest, "--server-side", "--force-conflicts")
		u.expect("resourceVersion", u.resourceVersion(name), again)
		if before == "" {
			t.Error("there is no resourceVersion")
		}
	}
}

// TestApplySetPrunes: kubectl deletes the HSMSecrets that a set has no longer.
func TestApplySetPrunes(t *testing.T) {
	t.Parallel()
	u := admin(t).env("KUBECTL_APPLYSET=true")
	set := []string{"--prune", "--applyset=configmaps/set"}
	u.apply(db("kept", "one")+"---"+db("gone", "one"), set...)
	u.apply(db("kept", "one"), set...)
	u.expect("what is left", u.run("get", "hsmsecrets", "-o", "name"), "hsmsecret.hsm.j5t.io/kept\n")
}

// TestImmutableAppliedAgain: metadata of an immutable HSMSecret can be applied, and its data
// by --force only, which makes it again.
func TestImmutableAppliedAgain(t *testing.T) {
	t.Parallel()
	u := admin(t)
	fixed := func(label, value string) string {
		return fmt.Sprintf("apiVersion: hsm.j5t.io/v1alpha1\nkind: HSMSecret\nmetadata: {name: db, labels: {x: %q}}\nimmutable: true\nstringData: {password: %s}\n", label, value)
	}
	u.apply(fixed("1", "one"))
	u.apply(fixed("2", "one"))
	u.expect("label", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.metadata.labels.x}"), "2")
	contains(t, u.with(fixed("2", "two")).fail("apply", "-f", "-"), "immutable")
	u.apply(fixed("3", "two"), "--force")
	u.expect("value", u.value("db"), "two")
}
