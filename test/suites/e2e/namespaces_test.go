// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
)

// namespacesConfigMap lists the namespaces that may hold HSMSecrets.
const namespacesConfigMap = "hsmsecrets-namespaces"

// TestNamespacesReplaced empties the list of namespaces, or sets it back, as people, Argo CD
// and backups do. While the token is away then, nobody is told that a namespace is empty,
// and none is deleted with what it holds.
func TestNamespacesReplaced(t *testing.T) {
	u := admin(t)
	empty := u
	empty.namespace = u.namespace + "-empty"
	empty.run("create", "namespace", empty.namespace)
	system := u
	system.namespace = cluster.SystemNamespace
	backup := serverSet.ReplaceAllString(system.run("get", "configmap", namespacesConfigMap, "-o", "yaml"), "")
	if strings.Contains(backup, u.namespace+":") {
		t.Fatalf("the backup is not older than what it lacks: %s", backup)
	}
	u.apply(db("db", "one"))
	t.Cleanup(func() {
		if t.Failed() {
			_ = hsm.StartAgent(context.Background())
		}
	})

	awaitNamespaceListed(system, u)
	system.run("patch", "configmap", namespacesConfigMap, "--type=merge", "-p", `{"data":{"`+u.namespace+`":null}}`)
	withoutAgent(u, func() { unavailable(u) })

	awaitNamespaceListed(system, u)
	system.with(backup).run("replace", "-f", "-")
	withoutAgent(u, func() { unavailable(u) })

	awaitNamespaceListed(system, u)
	system.run("replace", "-f", hsm.Manifest("apiserver-namespaces.yaml"))
	withoutAgent(u, func() {
		unavailable(u)
		u.run("delete", "namespace", u.namespace, "--wait=false")
		u.run("wait", "namespace", u.namespace, "--for=condition=NamespaceDeletionContentFailure", "--timeout=10m")
	})
	u.run("wait", "namespace", u.namespace, "--for=delete", "--timeout=10m")
	u.run("create", "namespace", u.namespace)
	u.expect("what the new namespace holds", u.run("get", "hsmsecrets", "-o", "name"), "")

	// Once the server has made the list again, an empty namespace is known to be empty.
	u.apply(db("db", "one"))
	awaitNamespaceListed(system, u)
	withoutAgent(u, func() {
		unavailable(u)
		empty.expect("what the empty namespace holds", empty.run("get", "hsmsecrets", "-o", "name"), "")
	})
}

// awaitNamespaceListed reads an HSMSecret until its namespace is in the list, and until the
// server has sealed the list.
func awaitNamespaceListed(system, u user) {
	u.Helper()
	await.NoError(u.T, 30*time.Second, func(context.Context) error {
		if _, _, err := u.try("get", "hsmsecret", "db"); err != nil {
			return err
		}
		list := system.run("get", "configmap", namespacesConfigMap, "-o", "jsonpath={.data} {.metadata.annotations}")
		if !strings.Contains(list, `"`+u.namespace+`"`) || !strings.Contains(list, "hsm.j5t.io/seal") {
			return fmt.Errorf("the list of namespaces is %s", list)
		}
		return nil
	})
}

// unavailable lists the HSMSecrets of a namespace that holds one, while there is no agent.
func unavailable(u user) {
	u.Helper()
	contains(u.T, u.fail("get", "hsmsecrets"), "ServiceUnavailable", hsm.AgentAddress)
}

// withoutAgent calls f while there is no agent.
func withoutAgent(u user, f func()) {
	u.Helper()
	hsm.Agent.Kill()
	f()
	if err := hsm.StartAgent(u.Context()); err != nil {
		u.Fatal(err)
	}
	await.NoError(u.T, 30*time.Second, func(context.Context) error {
		_, _, err := u.try("get", "hsmsecrets", "--all-namespaces")
		return err
	})
}
