// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"j5t.io/hsm/test/framework/await"
)

// serverSet are lines that people leave out of a copy.
var serverSet = regexp.MustCompile(`(?m)^  (uid|resourceVersion|creationTimestamp): .*\n`)

// TestCopy copies an HSMSecret as people and backups do, by get -o yaml and create: the copy
// has a path and a Secret of its own, and never takes those of the original.
func TestCopy(t *testing.T) {
	t.Parallel()
	u := admin(t)
	other := u
	other.namespace = u.namespace + "-other"
	other.run("create", "namespace", other.namespace)
	// An ordinary editor of the other namespace.
	editor := other
	editor.kubectl = hsm.Kubectl(newUser(t, "editor"))
	other.run("create", "rolebinding", "editor", "--clusterrole=edit", "--user=testcopy-editor")
	editor.waitUntilMay("create", onNames)

	u.with(db("db", "one")).run("create", "-f", "-")
	u.expect("path in the spec", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.spec.hsmPath}{.spec.secretName}"), "")
	u.expect("path", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.status.hsmPath}"), "secrets/"+u.namespace+"/db")
	u.expect("selected", u.run("get", "hsmsecrets", "-o", "name", "--field-selector=spec.secretName=db,spec.hsmPath=secrets/"+u.namespace+"/db"), "hsmsecret.hsm.j5t.io/db\n")
	original := serverSet.ReplaceAllString(u.run("get", "hsmsecret", "db", "-o", "yaml"), "")

	renamed := strings.ReplaceAll(original, "\n  name: db\n", "\n  name: second\n")
	u.with(renamed).run("create", "-f", "-")
	moved := strings.ReplaceAll(original, "\n  namespace: "+u.namespace+"\n", "\n  namespace: "+other.namespace+"\n")
	await.NoError(t, 30e9, func(context.Context) error {
		_, _, err := editor.with(moved).try("create", "-f", "-")
		return err
	})
	for name, c := range map[string]user{"second": u, "db": other} {
		c.expect("path of the copy", c.run("get", "hsmsecret", name, "-o", "jsonpath={.status.hsmPath}"), "secrets/"+c.namespace+"/"+name)
		c.expect("value of the copy", c.run("get", "hsmsecret", name, "-o", "jsonpath={.data.password}"), "b25l")
		contains(t, c.run("get", "hsmsecret", name, "-o", "wide"), "secrets/"+c.namespace+"/"+name)
	}

	// A copy that is made when the original is gone does not keep it from coming back.
	u.run("delete", "hsmsecret", "db")
	other.run("delete", "hsmsecret", "db")
	other.with(moved).run("create", "-f", "-")
	u.with(original).run("create", "-f", "-")
	u.expect("path", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.status.hsmPath}"), "secrets/"+u.namespace+"/db")

	// What somebody has set is shown, also where it is the default.
	u.with("spec:\n  hsmPath: secrets/"+u.namespace+"/set\n  secretName: set"+db("set", "one")).run("create", "-f", "-")
	u.expect("what was set", u.run("get", "hsmsecret", "set", "-o", "jsonpath={.spec.hsmPath} {.spec.secretName}"), "secrets/"+u.namespace+"/set set")
}

// TestTemplateRight: labels and annotations of the Secret are power with other controllers.
// Who may not create Secrets may not set them.
func TestTemplateRight(t *testing.T) {
	t.Parallel()
	u := admin(t)
	clerk := u
	clerk.kubectl = hsm.Kubectl(newUser(t, "clerk"))
	u.run("create", "role", "clerk", "--verb=create,get,list,patch,update", "--resource=hsmsecrets.hsm.j5t.io,hsmsecrets.hsm.j5t.io/data")
	u.run("create", "rolebinding", "clerk", "--role=clerk", "--user=testtemplateright-clerk")
	manifest := "spec:\n  template:\n    metadata:\n      labels: {argocd.argoproj.io/secret-type: repository}" + db("repo", "one")
	await.NoError(t, 30e9, func(context.Context) error {
		_, _, err := clerk.with(db("plain", "one")).try("create", "-f", "-")
		return err
	})
	contains(t, clerk.with(manifest).fail("create", "-f", "-"), "Forbidden", "spec.template", "create on secrets")
	contains(t, clerk.with(manifest).fail("apply", "--server-side", "-f", "-"), "Forbidden", "spec.template")
	patch := `{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}`
	contains(t, clerk.fail("patch", "hsmsecret", "plain", "--type=merge", "-p", patch), "Forbidden", "spec.template")

	u.with(manifest).run("create", "-f", "-")
	// What is there already is no new power.
	clerk.run("label", "hsmsecret", "repo", "mine=1")
	u.run("create", "role", "secrets", "--verb=create", "--resource=secrets")
	u.run("create", "rolebinding", "secrets", "--role=secrets", "--user=testtemplateright-clerk")
	await.NoError(t, 30e9, func(context.Context) error {
		_, _, err := clerk.try("patch", "hsmsecret", "plain", "--type=merge", "-p", patch)
		return err
	})
}
