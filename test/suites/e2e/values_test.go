// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"j5t.io/hsm/test/framework/await"
)

// What RBAC is asked for, to see names and to see values.
const (
	onNames  = "hsmsecrets.hsm.j5t.io"
	onValues = "hsmsecrets.hsm.j5t.io/data"
)

// as is a new user in the same namespace, who may do some verbs on names, and
// get values or not.
func (u user) as(name, verbs string, sees bool) user {
	u.Helper()
	who := u
	kubeconfig, err := hsm.AddUser(u.namespace + "-" + name)
	if err != nil {
		u.Fatal(err)
	}
	who.kubectl = hsm.Kubectl(kubeconfig)
	u.run("create", "role", name, "--verb="+verbs, "--resource="+onNames+","+onNames+"/status")
	u.run("create", "rolebinding", name, "--role="+name, "--user="+u.namespace+"-"+name)
	if sees {
		u.run("create", "role", name+"-values", "--verb=get", "--resource="+onValues)
		u.run("create", "rolebinding", name+"-values", "--role="+name+"-values", "--user="+u.namespace+"-"+name)
		who.waitUntilMay("get", onNames, "--subresource=data")
	}
	who.waitUntilMay(strings.Split(verbs, ",")[0], onNames)
	return who
}

// waitUntilMay waits until RBAC knows of a right. It asks kube-apiserver, before
// the API server of hsm.j5t.io remembers that there is none.
func (u user) waitUntilMay(args ...string) {
	u.Helper()
	await.NoError(u.T, 30*time.Second, func(context.Context) error {
		_, _, err := u.try(append([]string{"auth", "can-i"}, args...)...)
		return err
	})
}

const allVerbs = "get,list,watch,create,update,patch,delete,deletecollection"

// missing is the right that a blind user lacks, as errors say it.
const missing = "hsmsecrets/data"

// path is that of the HSMSecrets of the user's namespace.
func (u user) path() string {
	return "/apis/hsm.j5t.io/v1alpha1/namespaces/" + u.namespace + "/hsmsecrets"
}

// TestValues is of a user who may do everything with HSMSecrets but see values.
func TestValues(t *testing.T) {
	t.Parallel()
	u := admin(t)
	blind := u.as("blind", allVerbs, false)
	for _, test := range []struct {
		name string
		// test has the HSMSecret of its name, made by u with the value "one".
		test func(u, blind user, name string)
		// changes: the value is another one afterwards, or gone.
		changes bool
	}{
		{name: "get", test: blindGet},
		{name: "list", test: blindList},
		{name: "watch", test: blindWatch},
		{name: "edit", test: blindEdit},
		{name: "apply-server-side", test: blindApplyServerSide},
		{name: "patch", test: blindPatch},
		{name: "replace", test: blindReplace},
		{name: "apply", test: blindApply},
		{name: "create", test: blindCreate},
		{name: "delete", test: blindDelete, changes: true},
		{name: "delete-all", test: blindDeleteAll, changes: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			u, blind := u, blind
			u.T, blind.T = t, t
			u.apply(db(test.name, "one"), "--server-side")
			test.test(u, blind, test.name)
			if !test.changes {
				u.expect("value afterwards", u.value(test.name), "one")
			}
		})
	}
}

// blindGet reads one object, in each form.
func blindGet(u, blind user, name string) {
	shown := blind.run("get", "hsmsecret", name, "-o", "yaml")
	contains(u.T, shown, `password: ""`, "name: "+name)
	hides(u.T, shown)
	hides(u.T, blind.run("get", "hsmsecret", name, "--subresource=status", "-o", "yaml"))
	hides(u.T, blind.run("describe", "hsmsecret", name))
	hides(u.T, blind.run("get", "--raw", u.path()+"/"+name))
}

// blindList lists.
func blindList(u, blind user, name string) {
	shown := blind.run("get", "hsmsecret", "-l", "app="+name, "-o", "json")
	contains(u.T, shown, `"password": ""`)
	hides(u.T, shown)
	table := blind.run("get", "--raw", u.path()+"?includeObject=Object")
	contains(u.T, table, `"password":""`)
	hides(u.T, table)
}

// blindWatch watches, from now and from a version.
func blindWatch(u, blind user, name string) {
	// watch shows what comes within a second, or within more where that is too short.
	watch := func(query, want string) {
		shown := ""
		for seconds := 1; seconds < 100 && !strings.Contains(shown, want); seconds *= 2 {
			shown = blind.run("get", "--raw", fmt.Sprintf("%s?watch=true&timeoutSeconds=%d&allowWatchBookmarks=true&fieldSelector=metadata.name=%s%s", u.path(), seconds, name, query))
		}
		contains(u.T, shown, want, `"password":""`)
		hides(u.T, shown)
	}
	for _, query := range []string{"", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"} {
		watch(query, `"ADDED"`)
	}
	before := u.resourceVersion(name)
	u.run("label", "hsmsecret", name, "team=blue")
	watch("&resourceVersion="+before, `"MODIFIED"`)
}

// blindEdit edits all but the value.
func blindEdit(u, blind user, name string) {
	contains(u.T, blind.env("EDITOR=sed -i s/app:.*/app:\\ edited/").run("edit", "hsmsecret", name), "edited")
	u.expect("label", u.run("get", "hsmsecret", name, "-o", "jsonpath={.metadata.labels.app}"), "edited")
	contains(u.T, blind.env("EDITOR=sed -i s/password:.*/password:\\ dHdv/").fail("edit", "hsmsecret", name), "forbidden", "data[password]", missing)
	contains(u.T, blind.env("EDITOR=sed -i /password:/d").fail("edit", "hsmsecret", name), "forbidden", "data[password]", missing)
}

// blindApplyServerSide applies on the server all but the value, and cannot find it out by conflicts.
func blindApplyServerSide(u, blind user, name string) {
	u.with(db(name, "one")).run("apply", "--server-side", "--field-manager=shared", "-f", "-")
	apply := func(manifest string, args ...string) (stdout, stderr string, err error) {
		return blind.with(manifest).try(append([]string{"apply", "--server-side", "-o", "yaml", "-f", "-"}, args...)...)
	}
	header, _, _ := strings.Cut(db(name, ""), "data:\n  password")
	for what, manifest := range map[string]string{
		"no data":                 header + "spec:\n  syncInterval: 60\n",
		"an empty value":          blank(name),
		"an empty value, as text": header + "stringData:\n  password: \"\"\n",
	} {
		stdout, _, err := apply(manifest)
		if err != nil {
			u.Errorf("applying %s: %v", what, err)
		}
		hides(u.T, stdout)
	}
	var versions [2]string
	for i := range versions {
		if _, _, err := apply(header + "stringData:\n  password: \"\"\n"); err != nil {
			u.Error(err)
		}
		versions[i] = u.resourceVersion(name)
	}
	u.expect("resourceVersion after applying the same", versions[1], versions[0])
	for what, arguments := range map[string][]string{
		"the value":       {db(name, "one"), "--force-conflicts"},
		"another value":   {db(name, "two"), "--force-conflicts"},
		"a value as text": {header + "stringData:\n  password: two\n", "--force-conflicts"},
		"a key more":      {blank(name) + "  user: \"\"\n"},
		"a key less":      {header, "--field-manager=shared"},
	} {
		_, stderr, err := apply(arguments[0], arguments[1:]...)
		if what == "a key less" {
			// It is kept while another manager owns it.
			_, _, _ = apply(header)
			_, stderr, err = apply(arguments[0], arguments[1:]...)
		}
		if err == nil {
			u.Errorf("applying %s is allowed", what)
		}
		contains(u.T, stderr, "forbidden", "data[", missing)
	}
	// The value cannot be found out from conflicts.
	_, right, _ := apply(db(name, "one"))
	_, wrong, _ := apply(db(name, "two"))
	contains(u.T, right, "conflict")
	u.expect("answer to the right value", right, wrong)
}

// blindPatch patches all but the value, and cannot test or copy it.
func blindPatch(u, blind user, name string) {
	patch := func(args ...string) string {
		return blind.fail(append([]string{"patch", "hsmsecret", name}, args...)...)
	}
	for _, subresource := range []string{"", "status"} {
		// What tells the right value from a wrong one would tell the value.
		guess := func(value string) string {
			return patch("--subresource="+subresource, "--type=json", `-p=[{"op":"test","path":"/data/password","value":"`+value+`"}]`)
		}
		u.expect("answer to the right value", guess("b25l"), guess("dHdv"))
		hides(u.T, patch("--subresource="+subresource, "--type=json", `-p=[{"op":"replace","path":"/spec","value":"x"}]`))
		blind.run("patch", "hsmsecret", name, "--subresource="+subresource, "--type=json", `-p=[{"op":"test","path":"/data/password","value":""}]`)
		hides(u.T, blind.run("patch", "hsmsecret", name, "--subresource="+subresource, "--type=merge", `-p={"status":{"lastError":"none"}}`, "-o", "yaml"))
		copied := blind.run("patch", "hsmsecret", name, "--subresource="+subresource, "--type=json",
			`-p=[{"op":"add","path":"/metadata/annotations","value":{}},{"op":"copy","from":"/data/password","path":"/metadata/annotations/stolen"}]`, "-o", "yaml")
		hides(u.T, copied)
	}
	hides(u.T, blind.run("patch", "hsmsecret", name, "--type=merge", `-p={"spec":{"autoSync":false}}`, "-o", "yaml"))
	for _, args := range [][]string{
		{"--type=merge", `-p={"data":{"password":"dHdv"}}`},
		{"--type=merge", `-p={"data":{"password":null}}`},
		{"--type=merge", `-p={"data":null}`},
		{"--type=merge", `-p={"stringData":{"password":"two"}}`},
		{"--type=merge", `-p={"stringData":{"user":""}}`},
		{"--type=json", `-p=[{"op":"remove","path":"/data/password"}]`},
		{"--type=json", `-p=[{"op":"move","from":"/data/password","path":"/data/user"}]`},
		{"--type=merge", "--dry-run=server", `-p={"data":{"password":"b25l"}}`},
	} {
		contains(u.T, patch(args...), "forbidden", "data[", missing)
	}
}

// blindReplace replaces all but the value.
func blindReplace(u, blind user, name string) {
	shown := blind.run("get", "hsmsecret", name, "-o", "yaml")
	before := u.resourceVersion(name)
	blind.with(shown).run("replace", "-f", "-")
	u.expect("resourceVersion after replacing it by itself", u.resourceVersion(name), before)
	hides(u.T, blind.with(strings.Replace(shown, "app: "+name, "app: replaced", 1)).run("replace", "-o", "yaml", "-f", "-"))
	u.expect("label", u.run("get", "hsmsecret", name, "-o", "jsonpath={.metadata.labels.app}"), "replaced")
	contains(u.T, blind.with(strings.Replace(shown, "app: "+name, "app: again", 1)).fail("replace", "-f", "-"), "Conflict")
	contains(u.T, blind.with(db(name, "one")).fail("replace", "-f", "-"), "forbidden", "data[password]", missing)
}

// blindApply applies all but the value.
func blindApply(u, blind user, name string) {
	u.apply(db(name, "one"))
	shown := blind.run("get", "hsmsecret", name, "-o", "yaml")
	blind.apply(strings.Replace(shown, "app: "+name, "app: applied", 1))
	blind.apply(blank(name))
	blind.with(blank(name)).run("diff", "-f", "-")
	contains(u.T, blind.with(db(name, "one")).fail("apply", "-f", "-"), "forbidden", "data[password]", missing)
	contains(u.T, blind.with(strings.Replace(blank(name), "password:", "passphrase:", 1)).fail("apply", "-f", "-"), "forbidden", "data[pass", missing)
	hides(u.T, blind.run("apply", "view-last-applied", "hsmsecret", name))
}

// blindCreate creates, and is shown no value then.
func blindCreate(u, blind user, name string) {
	hides(u.T, blind.with(db(name+"-new", "one")).run("create", "-o", "yaml", "-f", "-"))
	u.expect("value", u.value(name+"-new"), "one")
	hides(u.T, blind.with(db(name+"-dry", "one")).run("create", "--dry-run=server", "-o", "yaml", "-f", "-"))
	hides(u.T, blind.with(db(name+"-applied", "one")).run("apply", "--server-side", "-o", "yaml", "-f", "-"))
	u.expect("value", u.value(name+"-applied"), "one")
	hides(u.T, blind.with(db(name, "one")).fail("create", "-f", "-"))
}

// blindDelete deletes, and is shown no value then.
func blindDelete(u, blind user, name string) {
	u.run("patch", "hsmsecret", name, "--type=merge", `-p={"metadata":{"finalizers":["example.com/a"]}}`)
	for _, query := range []string{"?dryRun=All", "", ""} {
		shown := blind.run("delete", "--raw", u.path()+"/"+name+query)
		hides(u.T, shown)
	}
	shown := blind.run("patch", "hsmsecret", name, "--type=merge", `-p={"metadata":{"finalizers":null}}`, "-o", "yaml")
	contains(u.T, shown, `password: ""`)
	hides(u.T, shown)
	contains(u.T, u.fail("get", "hsmsecret", name), "NotFound")
}

// blindDeleteAll deletes many, and is shown no value then.
func blindDeleteAll(u, blind user, name string) {
	for _, query := range []string{"&dryRun=All", ""} {
		shown := blind.run("delete", "--raw", u.path()+"?labelSelector=app%3D"+name+query)
		contains(u.T, shown, `"password":""`)
		hides(u.T, shown)
	}
	contains(u.T, u.fail("get", "hsmsecret", name), "NotFound")
}

// blank is the manifest of db with an empty value.
func blank(name string) string {
	return strings.Replace(db(name, ""), "password: ", `password: ""`, 1)
}

// hides fails the test if a text has the value "one" in any form that it takes.
func hides(t *testing.T, text string) {
	t.Helper()
	encoded := base64.StdEncoding.EncodeToString([]byte("one"))
	if strings.Contains(text, encoded) || strings.Contains(text, `"one"`) || strings.Contains(text, ": one\n") {
		t.Errorf("the value is in:\n%s", text)
	}
}

// TestValuesOfRoles is of the cluster's own roles, and of a right to all.
func TestValuesOfRoles(t *testing.T) {
	t.Parallel()
	u := admin(t)
	u.apply(db("db", "one"))
	for _, role := range []struct {
		name  string
		sees  bool
		edits bool
	}{{"view", false, false}, {"edit", true, true}, {"admin", true, true}} {
		t.Run(role.name, func(t *testing.T) {
			t.Parallel()
			u := u
			u.T = t
			who := u
			who.kubectl = hsm.Kubectl(newUser(t, "user"))
			u.run("create", "rolebinding", role.name, "--clusterrole="+role.name, "--user="+strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))+"-user")
			// Roles are aggregated by a controller.
			who.waitUntilMay("list", onNames)
			if role.sees {
				who.waitUntilMay("get", onNames, "--subresource=data")
			}
			want := ""
			if role.sees {
				want = "one"
			}
			u.expect("what it sees", who.value("db"), want)
			u.expect("what it sees in a list", who.run("get", "hsmsecret", "-o", "jsonpath={.items[0].data.password}"), base64.StdEncoding.EncodeToString([]byte(want)))
			who.run("get", "hsmdevices")
			who.run("get", "hsmpools")
			manifest := db("of-"+role.name, "one")
			if !role.edits {
				contains(t, who.with(manifest).fail("create", "-f", "-"), "(Forbidden)")
				return
			}
			who.apply(manifest)
			who.apply(db("of-"+role.name, "two"))
			u.expect("value", u.value("of-"+role.name), "two")
			contains(t, who.with(fmt.Sprintf("apiVersion: hsm.j5t.io/v1alpha1\nkind: HSMPool\nmetadata: {name: %s}\n", role.name)).fail("create", "-f", "-"), "(Forbidden)")
		})
	}
}
