// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
)

func newUser(t *testing.T, name string) (kubeconfig string) {
	t.Helper()
	kubeconfig, err := hsm.AddUser(strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// TestAccess has RBAC decide over HSMSecrets as over any resource: one user may
// get a single HSMSecret by name, the other nothing.
func TestAccess(t *testing.T) {
	t.Parallel()
	u := admin(t)
	u.apply(db("db", "one") + "---" + db("other", "two"))
	reader, nobody := u, u
	reader.kubectl = hsm.Kubectl(newUser(t, "reader"))
	nobody.kubectl = hsm.Kubectl(newUser(t, "nobody"))
	u.run("create", "role", "reader", "--verb=get", "--resource=hsmsecrets.hsm.j5t.io", "--resource-name=db")
	u.run("create", "rolebinding", "reader", "--role=reader", "--user=testaccess-reader")

	u.expect("what the reader may read", reader.value("db"), "one")
	for _, refused := range []struct {
		user user
		args []string
	}{
		{reader, []string{"get", "hsmsecret", "other"}},
		{reader, []string{"get", "hsmsecret"}},
		{reader, []string{"delete", "hsmsecret", "db"}},
		{reader, []string{"annotate", "hsmsecret", "db", "a=b"}},
		{nobody, []string{"get", "hsmsecret", "db"}},
		{nobody, []string{"get", "hsmsecret", "nothing-of-this-name"}},
		{nobody, []string{"get", "hsmsecret", "--watch"}},
	} {
		contains(t, refused.user.fail(refused.args...), "(Forbidden)")
	}
	u.expect("value after all refusals", u.value("db"), "one")
}

// TestClaim lets a path outside of the namespace's own be used only with the
// verb claim on that very path.
func TestClaim(t *testing.T) {
	t.Parallel()
	u := admin(t)
	editor := u
	editor.kubectl = hsm.Kubectl(newUser(t, "editor"))
	u.run("create", "rolebinding", "editor", "--clusterrole=edit", "--user=testclaim-editor")
	manifest := "spec:\n  hsmPath: shared/testclaim" + db("db", "one")
	// The roles are aggregated by a controller.
	eventually(t, 30e9, func() error {
		_, _, err := editor.try("get", "hsmsecret")
		return err
	})
	contains(t, editor.with(manifest).fail("create", "-f", "-"), "Forbidden", "spec.hsmPath", "claim")
	contains(t, editor.with(manifest).fail("apply", "--server-side", "-f", "-"), "Forbidden", "spec.hsmPath", "claim")
	u.run("create", "role", "claim", "--verb=claim", "--resource=hsmsecrets.hsm.j5t.io", "--resource-name=shared/testclaim")
	u.run("create", "rolebinding", "claim", "--role=claim", "--user=testclaim-editor")
	eventually(t, 30e9, func() error {
		_, _, err := editor.with(manifest).try("create", "-f", "-")
		return err
	})
	u.expect("path", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.spec.hsmPath}"), "shared/testclaim")
}
