// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/test/framework/await"
)

const path = "/apis/hsm.j5t.io/v1alpha1/namespaces/%s/hsmsecrets"

// TestDirectCertificate is a user at our server itself: the authority of the
// cluster's users is known there, and RBAC decides by SubjectAccessReview.
func TestDirectCertificate(t *testing.T) {
	ns := namespace(t)
	alice, bob := direct(t, newUser(t, "direct-alice")), direct(t, newUser(t, "direct-bob"))
	grant(t, ns, "edit", user("direct-alice"))
	await.NoError(t, 30*time.Second, func(context.Context) error {
		_, err := secrets(t, alice, ns).List(t.Context(), metav1.ListOptions{})
		return err
	})
	_, err := secrets(t, alice, ns).Create(t.Context(), secret("db", "one"), metav1.CreateOptions{})
	must(t, err)
	if _, err := secrets(t, bob, ns).Get(t.Context(), "db", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user without rights: want Forbidden, got %v", err)
	}
}

// TestDirectToken is a ServiceAccount with a bearer token: a TokenReview tells
// who it is.
func TestDirectToken(t *testing.T) {
	ns := namespace(t)
	_, err := host.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "app"}}, metav1.CreateOptions{})
	must(t, err)
	token, err := host.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "app", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	grant(t, ns, "edit", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "app"})

	app := direct(t, "")
	app.BearerToken = token.Status.Token
	await.NoError(t, 30*time.Second, func(context.Context) error {
		_, err := secrets(t, app, ns).List(t.Context(), metav1.ListOptions{})
		return err
	})
	if _, err := secrets(t, app, "default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("in another namespace: want Forbidden, got %v", err)
	}
	forged := direct(t, "")
	forged.BearerToken = token.Status.Token[:len(token.Status.Token)-8] + "AAAAAAAA"
	if _, err := secrets(t, forged, ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a forged token: want Unauthorized, got %v", err)
	}
}

// TestRequestHeader believes the headers that name a user only from the
// aggregator, which its certificate proves.
func TestRequestHeader(t *testing.T) {
	ns := namespace(t)
	headers := http.Header{"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}}
	aggregator := direct(t, "")
	aggregator.CertFile = filepath.Join(filepath.Dir(hsm.RequestHeaderCAFile), "aggregator-client.crt")
	aggregator.KeyFile = strings.TrimSuffix(aggregator.CertFile, ".crt") + ".key"
	// With the certificate of an agent's client: its authority signs no users.
	otherAuthority := direct(t, "")
	otherAuthority.CertFile, otherAuthority.KeyFile = hsm.AgentClient.CertFile, hsm.AgentClient.KeyFile
	for _, c := range []struct {
		name   string
		config *rest.Config
		want   int
	}{
		{"aggregator", aggregator, http.StatusOK},
		{"nobody", direct(t, ""), http.StatusForbidden},
		{"user of the cluster", direct(t, newUser(t, "forger")), http.StatusForbidden},
		{"certificate of another authority", otherAuthority, http.StatusUnauthorized},
	} {
		if said := get(t, c.config, fmt.Sprintf(path, ns), headers); said.code != c.want {
			t.Errorf("headers of an administrator from %s: %d, want %d: %s", c.name, said.code, c.want, said.body)
		}
	}
}

// TestAnonymous may ask for health, and for nothing else.
func TestAnonymous(t *testing.T) {
	for path, want := range map[string]int{
		"/livez":                     http.StatusOK,
		"/readyz":                    http.StatusOK,
		"/readyz/agents":             http.StatusForbidden,
		"/metrics":                   http.StatusForbidden,
		"/flagz":                     http.StatusForbidden,
		"/statusz":                   http.StatusForbidden,
		"/debug/pprof/":              http.StatusForbidden,
		"/openapi/v3":                http.StatusForbidden,
		fmt.Sprintf(path, "default"): http.StatusForbidden,
	} {
		if said := get(t, direct(t, ""), path, nil); said.code != want {
			t.Errorf("anonymous %s: %d, want %d: %s", path, said.code, want, said.body)
		}
	}
}

// TestDecisionsAreCached asks kube-apiserver once for many equal requests of one
// user: it is not to be asked for each.
func TestDecisionsAreCached(t *testing.T) {
	const requests = 30
	ns := namespace(t)
	client := secrets(t, direct(t, newUser(t, "cached")), ns)
	grant(t, ns, "edit", user("cached"))
	for range requests {
		// Refused or not, the decision is cached.
		_, err := client.Get(t.Context(), "db", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
			t.Fatal(err)
		}
	}
	reviews := len(linesWith(readFile(t, hsm.AuditLog), `"subjectaccessreviews"`, `"user":"cached"`))
	if reviews == 0 || reviews > requests/5 {
		t.Errorf("%d reviews for %d requests, want few", reviews, requests)
	}
}
