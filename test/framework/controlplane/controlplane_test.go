// SPDX-License-Identifier: Apache-2.0

package controlplane_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
)

func TestControlPlane(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	plane, err := controlplane.Start(ctx, controlplane.Options{Dir: dir, ControllerManager: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)

	// The steps build on each other.
	t.Run("kubectl", func(t *testing.T) {
		kubectl := plane.Kubectl(plane.AdminKubeconfig)
		if stdout, _, err := kubectl.Run(ctx, "get", "namespaces"); err != nil || !strings.Contains(stdout, "kube-system") {
			t.Errorf("namespaces: %v\n%s", err, stdout)
		}
		stdout, _, err := kubectl.Run(ctx, "version")
		if err != nil || strings.Count(stdout, "v1.37.") != 2 {
			t.Errorf("version: %v\n%s", err, stdout)
		}
	})
	t.Run("users have the rights of RBAC", func(t *testing.T) { testUsers(ctx, t, plane) })
	t.Run("kube-controller-manager works", func(t *testing.T) {
		kubectl := plane.Kubectl(plane.AdminKubeconfig)
		for _, args := range [][]string{
			{"create", "namespace", "short-lived"},
			// The namespace controller removes the finalizer.
			{"delete", "namespace", "short-lived", "--timeout=10m"},
		} {
			if _, _, err := kubectl.Run(ctx, args...); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("an aggregated server is reached", func(t *testing.T) { testAggregation(ctx, t, plane) })
	t.Run("nothing is left running", func(t *testing.T) {
		if commands := process.RunningWith(t, dir); len(commands) != 3 {
			t.Errorf("%d processes run, want 3: %q", len(commands), commands)
		}
		plane.Stop()
		if commands := process.RunningWith(t, dir); len(commands) != 0 {
			t.Errorf("left running: %q", commands)
		}
	})
}

func testUsers(ctx context.Context, t *testing.T, plane *controlplane.ControlPlane) {
	client, err := kubernetes.NewForConfig(plane.Admin)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "viewer"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "viewers"},
		Subjects: []rbacv1.Subject{
			{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "viewers"},
			{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "viewer"},
		},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "viewer"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		kubeconfig func() (string, error)
		allowed    bool
	}{
		{"alice", func() (string, error) { return plane.AddUser("alice", "viewers") }, true},
		{"bob", func() (string, error) { return plane.AddUser("bob") }, false},
		{"system:serviceaccount:default:viewer", func() (string, error) { return plane.AddServiceAccount("default", "viewer") }, true},
	} {
		kubeconfig, err := c.kubeconfig()
		if err != nil {
			t.Fatal(err)
		}
		kubectl := plane.Kubectl(kubeconfig)
		if stdout, _, err := kubectl.Run(ctx, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"); err != nil || stdout != c.name {
			t.Errorf("%s is %q: %v", c.name, stdout, err)
		}
		// RBAC decides from a cache that follows within moments; whoever has no right never gets one.
		allowed := false
		for tries := 0; tries < 100 && !allowed; tries++ {
			_, _, err = kubectl.Run(ctx, "get", "pods")
			allowed = err == nil
			if !c.allowed {
				break
			}
		}
		if allowed != c.allowed {
			t.Errorf("%s may get pods: %t, want %t: %v", c.name, allowed, c.allowed, err)
		}
	}
}

func testAggregation(ctx context.Context, t *testing.T, plane *controlplane.ControlPlane) {
	ca, err := pki.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	service := controlplane.APIService{
		GroupVersion: schema.GroupVersion{Group: "example.test", Version: "v1"},
		Namespace:    "aggregated",
		Name:         "example",
		CABundle:     ca.Bundle,
	}
	// The second registration is that of a server that came back elsewhere.
	for range 2 {
		service.Port = serveDiscovery(t, plane, ca, service)
		if err := plane.RegisterAPIService(ctx, service); err != nil {
			t.Fatal(err)
		}
	}
	kubectl := plane.Kubectl(plane.AdminKubeconfig)
	if stdout, _, err := kubectl.Run(ctx, "api-resources", "--api-group=example.test", "-o", "name"); err != nil || strings.TrimSpace(stdout) != "things.example.test" {
		t.Errorf("resources of example.test: %q: %v", stdout, err)
	}
	if err := plane.UnregisterAPIService(ctx, service); err != nil {
		t.Error(err)
	}
}

// serveDiscovery is the least that an aggregated server has to say. It refuses whoever is not the aggregator.
func serveDiscovery(t *testing.T, plane *controlplane.ControlPlane, ca *pki.CA, service controlplane.APIService) int {
	t.Helper()
	certFile, keyFile, err := ca.Issue("example", pki.Server, service.DNSName())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(plane.RequestHeaderCAFile)
	if err != nil {
		t.Fatal(err)
	}
	aggregators := x509.NewCertPool()
	aggregators.AppendCertsFromPEM(content)

	documents := map[string]string{
		"/apis/example.test/v1": `{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "example.test/v1", "resources":
			[{"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"]}]}`,
		"/openapi/v3":                      `{"paths": {"apis/example.test/v1": {"serverRelativeURL": "/openapi/v3/apis/example.test/v1?hash=1"}}}`,
		"/openapi/v3/apis/example.test/v1": `{"openapi": "3.0.0", "info": {"title": "example", "version": "v1"}, "paths": {}}`,
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		document, found := documents[r.URL.Path]
		if !found || r.Header.Get("X-Remote-User") == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, document)
	}))
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    aggregators,
		MinVersion:   tls.VersionTLS12,
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(address.Port())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
