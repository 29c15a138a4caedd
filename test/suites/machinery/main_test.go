// SPDX-License-Identifier: Apache-2.0

// Package machinery tests that what every Kubernetes API server has is on and
// works for our kinds: authentication, authorization, admission, quotas, audit,
// fairness, tracing, metrics, certificates that reload, and skewed versions.
package machinery

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	typed "j5t.io/hsm/pkg/generated/clientset/versioned/typed/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/suite"
)

const auditPolicy = "../../../artifacts/deploy/audit-policy.yaml"

var (
	// hsm is the cluster that all tests share; each works in a namespace of its own.
	hsm *cluster.Cluster
	// host is the administrator's client of kube-apiserver.
	host kubernetes.Interface
	// ourAuditLog is the audit log of our API server.
	ourAuditLog string
	spans       = &collector{}
)

func TestMain(m *testing.M) { suite.Main(m, setUp) }

func setUp(ctx context.Context, s *suite.Suite) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	spans.start(listener)
	s.Cleanup(spans.stop)
	tracing := filepath.Join(s.Dir, "tracing.yaml")
	if err := os.WriteFile(tracing, fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: TracingConfiguration
endpoint: %s
samplingRatePerMillion: 1000000
`, listener.Addr()), 0o600); err != nil {
		return err
	}
	policy, err := filepath.Abs(auditPolicy)
	if err != nil {
		return err
	}
	ourAuditLog = filepath.Join(s.Dir, "our-audit.log")
	hsm, err = s.StartCluster(ctx, cluster.Options{
		ControllerManager: true,
		Races:             true,
		AuditPolicyFile:   policy,
		APIServerArgs: []string{
			"--audit-policy-file=" + policy,
			"--audit-log-path=" + ourAuditLog,
			"--tracing-config-file=" + tracing,
		},
		Verbosity: 2,
	})
	if err != nil {
		return err
	}
	host, err = kubernetes.NewForConfig(hsm.Admin)
	return err
}

// namespace makes a namespace of the test's own.
func namespace(t *testing.T) string {
	t.Helper()
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	_, err := host.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	return name
}

// secrets is a client of HSMSecrets.
func secrets(t *testing.T, config *rest.Config, namespace string) typed.HSMSecretInterface {
	t.Helper()
	client, err := versioned.NewForConfig(config)
	must(t, err)
	return client.HsmV1alpha1().HSMSecrets(namespace)
}

func secret(name, value string) *v1alpha1.HSMSecret {
	return &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Data:       map[string][]byte{"password": []byte(value)},
	}
}

// newUser is a user with a client certificate of the cluster.
func newUser(t *testing.T, name string) (kubeconfig string) {
	t.Helper()
	kubeconfig, err := hsm.AddUser(name)
	must(t, err)
	return kubeconfig
}

// grant gives a user a ClusterRole in one namespace, or everywhere if it is "".
func grant(t *testing.T, namespace, clusterRole string, subject rbacv1.Subject) {
	t.Helper()
	name := metav1.ObjectMeta{GenerateName: "machinery-"}
	role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRole}
	var err error
	if namespace == "" {
		_, err = host.RbacV1().ClusterRoleBindings().Create(t.Context(),
			&rbacv1.ClusterRoleBinding{ObjectMeta: name, RoleRef: role, Subjects: []rbacv1.Subject{subject}}, metav1.CreateOptions{})
	} else {
		_, err = host.RbacV1().RoleBindings(namespace).Create(t.Context(),
			&rbacv1.RoleBinding{ObjectMeta: name, RoleRef: role, Subjects: []rbacv1.Subject{subject}}, metav1.CreateOptions{})
	}
	must(t, err)
}

func user(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

// direct is the user of a kubeconfig, or nobody, at our server itself.
func direct(t *testing.T, kubeconfig string) *rest.Config {
	t.Helper()
	config, err := hsm.Direct(kubeconfig)
	must(t, err)
	return config
}

// answer is what a server has said.
type answer struct {
	code   int
	header http.Header
	body   string
}

// get asks our server itself for a path.
func get(t *testing.T, config *rest.Config, path string, headers http.Header) answer {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	must(t, err)
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+path, http.NoBody)
	must(t, err)
	for name, values := range headers {
		request.Header[name] = values
	}
	response, err := client.Do(request)
	must(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	return answer{response.StatusCode, response.Header, string(body)}
}

// monitoring is a user who may read metrics and health, and nothing else.
func monitoring(t *testing.T) *rest.Config {
	t.Helper()
	name := strings.ToLower(t.Name()) + "-monitoring"
	config := direct(t, newUser(t, name))
	grant(t, "", "system:monitoring", user(name))
	await.NoError(t, 30*time.Second, func(context.Context) error {
		if said := get(t, config, "/metrics", nil); said.code != http.StatusOK {
			return fmt.Errorf("/metrics: %d: %s", said.code, said.body)
		}
		return nil
	})
	return config
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	return content
}

// linesWith are the lines of a text that contain all parts.
func linesWith(text []byte, parts ...string) []string {
	var found []string
lines:
	for line := range bytes.Lines(text) {
		for _, part := range parts {
			if !bytes.Contains(line, []byte(part)) {
				continue lines
			}
		}
		found = append(found, string(line))
	}
	return found
}
