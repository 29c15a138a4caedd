// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"context"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestMetrics shows those who may read metrics what requests and calls to the
// agents took; no secret is named.
func TestMetrics(t *testing.T) {
	const name = "name-that-metrics-must-not-tell"
	ns := namespace(t)
	client := secrets(t, hsm.Admin, ns)
	_, err := client.Create(t.Context(), secret(name, "one"), metav1.CreateOptions{})
	must(t, err)
	_, err = client.Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	_, err = client.List(t.Context(), metav1.ListOptions{})
	must(t, err)

	body := get(t, monitoring(t), "/metrics", nil).body
	for _, metric := range []string{
		`apiserver_request_total{code="201",component="apiserver",dry_run="",group="hsm.j5t.io",resource="hsmsecrets",scope="resource",subresource="",verb="POST",version="v1alpha1"}`,
		`apiserver_request_duration_seconds_count{`,
		`apiserver_flowcontrol_dispatched_requests_total{`,
		`apiserver_admission_step_admission_duration_seconds_count{`,
		`apiserver_delegated_authz_request_total{code="201"}`,
		`hsm_agent_call_duration_seconds_count{method="Get",reason="OK"}`,
		`hsm_agent_call_duration_seconds_count{method="List",reason="OK"}`,
		`hsm_agent_call_duration_seconds_count{method="Commit",reason="OK"}`,
		`hsm_agent_connected{address="` + hsm.AgentAddress + `",serial=""} 1`,
	} {
		if !strings.Contains(body, "\n"+metric) {
			t.Errorf("no metric %s", metric)
		}
	}
	for _, secret := range []string{name, ns} {
		if strings.Contains(body, secret) {
			t.Errorf("metrics name %q", secret)
		}
	}
}

// TestPages are those for people: flags, status, health in words.
func TestPages(t *testing.T) {
	config := monitoring(t)
	for path, part := range map[string]string{
		"/flagz":          "[" + hsm.AgentAddress + "]",
		"/statusz":        "Emulation version",
		"/readyz?verbose": "[+]informer-sync ok",
		"/livez?verbose":  "[+]ping ok",
		"/readyz/agents":  "[+]agent " + hsm.AgentAddress + " of token " + hsm.Token.Serial + ": serves the store",
		"/metrics/slis":   "kubernetes_healthcheck",
	} {
		said := get(t, config, path, http.Header{"Accept": {"text/plain"}})
		if said.code != http.StatusOK || !strings.Contains(said.body, part) {
			t.Errorf("%s: %d, want %q:\n%s", path, said.code, part, said.body)
		}
	}
}

// TestReadyWithoutAgent: the server says that the agent is away, and stays ready: what else
// the server serves must go on.
func TestReadyWithoutAgent(t *testing.T) {
	config := monitoring(t)
	hsm.Agent.Kill()
	t.Cleanup(func() {
		// Whatever the test says, those after it need the agent.
		if err := hsm.StartAgent(context.Background()); err != nil {
			t.Error(err)
		}
	})
	_, err := secrets(t, hsm.Admin, "default").Get(t.Context(), "db", metav1.GetOptions{})
	if !apierrors.IsServiceUnavailable(err) {
		t.Errorf("want ServiceUnavailable, got %v", err)
	}
	said := get(t, config, "/readyz/agents", nil)
	if said.code != http.StatusServiceUnavailable || !strings.Contains(said.body, "[-]agent "+hsm.AgentAddress+": ") || !strings.Contains(said.body, "connection refused") {
		t.Errorf("the agent is said to be: %d: %s", said.code, said.body)
	}
	for _, path := range []string{"/readyz", "/livez", "/healthz"} {
		if said := get(t, config, path+"?verbose", nil); said.code != http.StatusOK {
			t.Errorf("%s: %d: %s", path, said.code, said.body)
		}
	}
	body := get(t, config, "/metrics", nil).body
	for _, metric := range []string{
		`hsm_agent_call_duration_seconds_count{method="Get",reason="AGENT_UNREACHABLE"}`,
		`hsm_agent_connected{address="` + hsm.AgentAddress + `",serial=""} 0`,
	} {
		if !strings.Contains(body, "\n"+metric) {
			t.Errorf("no metric %s", metric)
		}
	}
}
