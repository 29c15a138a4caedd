// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"j5t.io/hsm/test/framework/await"
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
// get a single HSMSecret by name, another its value too, the third nothing.
func TestAccess(t *testing.T) {
	t.Parallel()
	u := admin(t)
	u.apply(db("db", "one") + "---" + db("other", "two"))
	reader, owner, nobody := u, u, u
	reader.kubectl = hsm.Kubectl(newUser(t, "reader"))
	owner.kubectl = hsm.Kubectl(newUser(t, "owner"))
	nobody.kubectl = hsm.Kubectl(newUser(t, "nobody"))
	u.run("create", "role", "reader", "--verb=get", "--resource="+onNames, "--resource-name=db")
	u.run("create", "rolebinding", "reader", "--role=reader", "--user=testaccess-reader")
	u.run("create", "role", "owner", "--verb=get,list,watch", "--resource="+onNames+","+onValues, "--resource-name=db")
	u.run("create", "rolebinding", "owner", "--role=owner", "--user=testaccess-owner")
	reader.waitUntilMay("get", onNames+"/db")
	owner.waitUntilMay("get", onNames+"/db", "--subresource=data")

	u.expect("what the reader may read", reader.run("get", "hsmsecret", "db", "-o", "jsonpath={.data}"), `{"password":""}`)
	u.expect("what the owner may read", owner.value("db"), "one")
	u.expect("what the owner may list", owner.run("get", "hsmsecret", "--field-selector=metadata.name=db", "-o", "jsonpath={.items[*].data.password}"), "b25l")
	for _, refused := range []struct {
		user user
		args []string
	}{
		{reader, []string{"get", "hsmsecret", "other"}},
		{reader, []string{"get", "hsmsecret"}},
		{reader, []string{"delete", "hsmsecret", "db"}},
		{reader, []string{"annotate", "hsmsecret", "db", "a=b"}},
		{owner, []string{"get", "hsmsecret", "other"}},
		{owner, []string{"get", "hsmsecret"}},
		{nobody, []string{"get", "hsmsecret", "db"}},
		{nobody, []string{"get", "hsmsecret", "nothing-of-this-name"}},
		{nobody, []string{"get", "hsmsecret", "--watch"}},
	} {
		contains(t, refused.user.fail(refused.args...), "(Forbidden)")
	}
	u.expect("value after all refusals", u.value("db"), "one")
}

// TestHiddenValuesAreNotRead has an agent log the values that it gives out. Of one
// who may see only names it logs none.
func TestHiddenValuesAreNotRead(t *testing.T) {
	t.Parallel()
	u := admin(t)
	u.apply(db("db", "one"))
	for name, sees := range map[string]bool{"blind": false, "owner": true} {
		who := u.as(name, "get,list,watch", sees)
		who.run("get", "hsmsecret", "db", "-o", "yaml")
		who.run("get", "hsmsecret", "-o", "yaml")
		who.run("get", "--raw", "/apis/hsm.j5t.io/v1alpha1/namespaces/"+u.namespace+"/hsmsecrets?watch=true&timeoutSeconds=1")
	}
	log, err := os.ReadFile(hsm.Agent.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	for act, name := range map[string]string{"Value read": "/db", "Values read": "", "Values watched": ""} {
		var owner, blind int
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, `"`+act+`"`) && strings.Contains(line, u.namespace+name) {
				owner += strings.Count(line, `user="`+u.namespace+`-owner"`)
				blind += strings.Count(line, `user="`+u.namespace+`-blind"`)
			}
		}
		if owner == 0 || blind > 0 {
			t.Errorf("%q is logged %d times of who may see values, %d times of who may not", act, owner, blind)
		}
	}
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
	editor.waitUntilMay("create", onNames)
	contains(t, editor.with(manifest).fail("create", "-f", "-"), "Forbidden", "spec.hsmPath", "claim")
	contains(t, editor.with(manifest).fail("apply", "--server-side", "-f", "-"), "Forbidden", "spec.hsmPath", "claim")
	u.run("create", "role", "claim", "--verb=claim", "--resource=hsmsecrets.hsm.j5t.io", "--resource-name=shared/testclaim")
	u.run("create", "rolebinding", "claim", "--role=claim", "--user=testclaim-editor")
	await.NoError(t, 30e9, func(context.Context) error {
		_, _, err := editor.with(manifest).try("create", "-f", "-")
		return err
	})
	u.expect("path", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.spec.hsmPath}"), "shared/testclaim")
}

// TestAccessPage applies the samples of docs/access.md, and runs its commands.
func TestAccessPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	u := user{T: t, kubectl: hsm.Kubectl(hsm.AdminKubeconfig), namespace: "app"}
	u.run("create", "namespace", u.namespace)
	u.apply(db("db", "one"))
	alice := u
	kubeconfig, err := hsm.AddUser("alice")
	if err != nil {
		t.Fatal(err)
	}
	alice.kubectl = hsm.Kubectl(kubeconfig)

	var roles, policies []string
	for _, sample := range fenced(string(page), "yaml") {
		if strings.Contains(sample, "kind: Policy") {
			policies = append(policies, sample)
		} else {
			roles = append(roles, sample)
		}
	}
	if len(roles) != 2 || len(policies) != 1 {
		t.Fatalf("the page has %d samples of roles and %d of audit policies, want 2 and 1", len(roles), len(policies))
	}
	u.apply(strings.Join(roles, "---\n"))
	u.run("create", "rolebinding", "claim", "--role=claim-shared-db", "--user=alice")
	u.run("create", "rolebinding", "edit", "--clusterrole=edit", "--user=alice")
	alice.waitUntilMay("get", onNames+"/db", "--subresource=data")
	alice.waitUntilMay("claim", onNames+"/shared/db")
	alice.waitUntilMay("create", onNames)
	u.expect("what alice reads", alice.value("db"), "one")
	alice.with("spec:\n  hsmPath: shared/db"+db("claims", "one")).run("create", "-f", "-")

	for _, commands := range fenced(string(page), "sh") {
		for command := range strings.Lines(commands) {
			args := strings.Fields(command)
			if args[0] != "kubectl" {
				t.Errorf("%q cannot be tried: it is not of kubectl", command)
				continue
			}
			u.run(args[1:]...)
		}
	}

	audit, err := policy.LoadPolicyFromBytes([]byte(policies[0]))
	if err != nil {
		t.Fatal(err)
	}
	evaluator := policy.NewPolicyRuleEvaluator(audit)
	for _, resource := range []string{"hsmsecrets", "hsmdevices"} {
		for _, subresource := range []string{"", "status"} {
			for verb := range sets.New(strings.Split(allVerbs, ",")...) {
				got := evaluator.EvaluatePolicyRule(authorizer.AttributesRecord{
					Verb: verb, APIGroup: "hsm.j5t.io", APIVersion: "v1alpha1", Resource: resource, Subresource: subresource, ResourceRequest: true,
				})
				if got.Level != auditapi.LevelMetadata {
					t.Errorf("%s of %s %s is logged at level %s", verb, resource, subresource, got.Level)
				}
			}
		}
	}
}

// fenced returns the code blocks of a language in a page.
func fenced(page, language string) []string {
	var blocks []string
	for _, part := range strings.Split(page, "\n```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(part, "```\n")
		blocks = append(blocks, block)
	}
	return blocks
}
