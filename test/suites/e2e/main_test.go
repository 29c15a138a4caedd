// SPDX-License-Identifier: Apache-2.0

// Package e2e uses the whole product as its users do: with kubectl and client-go
// against a real kube-apiserver, down to a real PKCS#11 token.
package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/suite"
)

// hsm is the cluster that all tests share; each works in a namespace of its own.
var hsm *cluster.Cluster

func TestMain(m *testing.M) { suite.Main(m, setUp) }

func setUp(ctx context.Context, s *suite.Suite) (err error) {
	hsm, err = s.StartCluster(ctx, cluster.Options{ControllerManager: true, Races: true, Verbosity: 6})
	return err
}

// user runs kubectl as one user in one namespace.
type user struct {
	*testing.T
	kubectl   controlplane.Kubectl
	namespace string
}

// admin is the cluster's administrator in a new namespace.
func admin(t *testing.T) user {
	t.Helper()
	namespace := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	u := user{T: t, kubectl: hsm.Kubectl(hsm.AdminKubeconfig), namespace: namespace}
	u.run("create", "namespace", namespace)
	return u
}

// run is kubectl that must succeed; it returns what it printed.
func (u user) run(args ...string) string {
	u.Helper()
	stdout, _, err := u.try(args...)
	if err != nil {
		u.Fatal(err)
	}
	return stdout
}

// fail is kubectl that must fail; it returns what it said of that.
func (u user) fail(args ...string) string {
	u.Helper()
	stdout, stderr, err := u.try(args...)
	if err == nil {
		u.Fatalf("kubectl %s: should have failed, but printed: %s", strings.Join(args, " "), stdout)
	}
	return stderr
}

func (u user) try(args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(u.Context(), await.Limit(time.Minute))
	defer cancel()
	return u.kubectl.Run(ctx, append([]string{"--namespace=" + u.namespace}, args...)...)
}

// apply applies a manifest given as text.
func (u user) apply(manifest string, args ...string) string {
	u.Helper()
	return u.with(manifest).run(append([]string{"apply", "-f", "-"}, args...)...)
}

// with is the same user, who gives a text on standard input.
func (u user) with(input string) user {
	u.kubectl.Stdin = strings.NewReader(input)
	return u
}

// env is the same user with a variable more in kubectl's environment.
func (u user) env(variable string) user {
	u.kubectl.Env = append(append([]string{}, u.kubectl.Env...), variable)
	return u
}

// contains fails the test if a text lacks a part.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}
