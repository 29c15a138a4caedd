// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/test/framework/await"
)

// monitoring is a user who may read metrics and health, and nothing else, at our
// server itself.
func monitoring(t *testing.T) *rest.Config {
	t.Helper()
	return direct(t, monitoringKubeconfig(t))
}

func monitoringKubeconfig(t *testing.T) string {
	t.Helper()
	kubeconfig, err := hsm.AddUser("monitoring")
	must(t, err)
	_, err = host.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "monitoring"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:monitoring"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "monitoring"}},
	}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		must(t, err)
	}
	await.NoError(t, patience, func(context.Context) error {
		if code, body := ask(t, direct(t, kubeconfig), "/metrics"); code != 200 {
			return fmt.Errorf("/metrics: %d: %s", code, body)
		}
		return nil
	})
	return kubeconfig
}

// TestVerboseReadiness shows how the agents are to who may see that, and decides
// nothing by it.
func TestVerboseReadiness(t *testing.T) {
	kubeconfig := monitoringKubeconfig(t)
	authority := filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(authority, hsm.ServingCA(), 0o600))
	asPerson := func() string {
		t.Helper()
		out, _, err := hsm.Kubectl(kubeconfig).Run(t.Context(),
			"--server="+direct(t, "").Host, "--certificate-authority="+authority, "get", "--raw", "/readyz?verbose")
		must(t, err)
		return out
	}
	asNobody := func() string {
		t.Helper()
		code, body := ask(t, direct(t, ""), "/readyz?verbose")
		if code != 200 {
			t.Errorf("%d: %s", code, body)
		}
		return body
	}
	contains := func(text string, parts ...string) {
		t.Helper()
		for _, part := range append(parts, "readyz check passed\n") {
			if !strings.Contains(text, part) {
				t.Errorf("no %q in:\n%s", part, text)
			}
		}
	}
	secret := []string{hsm.Token.Serial, "127.0.0.1"}

	begin(t)
	contains(asPerson(), "[+]agent "+hsm.AgentAddress+" of token "+hsm.Token.Serial+": serves the store\n")
	contains(asNobody(), "[+]agents: connected to one that serves\n")
	members(t, member(hsm.Token.Serial, hsm.AgentAddress), member("OTHER", "127.0.0.1:1"))
	await.NoError(t, patience, func(context.Context) error {
		if text := asPerson(); !strings.Contains(text, "[-]agent 127.0.0.1:1 of token OTHER: ") {
			return fmt.Errorf("the other agent is not told of:\n%s", text)
		}
		return nil
	})
	members(t)
	await.NoError(t, patience, func(context.Context) error {
		if text := asPerson(); !strings.Contains(text, "[-]agents: no HSMPool has an agent") {
			return fmt.Errorf("it is not told that there is none:\n%s", text)
		}
		return nil
	})
	text := asNobody()
	contains(text, "[-]agents: not connected to one that serves, as of the last request\n")
	for _, part := range secret {
		if strings.Contains(text, part) {
			t.Errorf("nobody is told %q:\n%s", part, text)
		}
	}
	if code, body := ask(t, direct(t, ""), "/readyz"); code != 200 || body != "ok" {
		t.Errorf("/readyz: %d %s", code, body)
	}
}
