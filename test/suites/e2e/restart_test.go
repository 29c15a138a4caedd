// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/test/framework/await"
)

func clientset(t *testing.T) versioned.Interface {
	t.Helper()
	client, err := versioned.NewForConfig(hsm.Admin)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestRestart kills agent and API server with SIGKILL: every acknowledged object
// is there afterwards, the same one, and a watch goes on or ends with 410.
func TestRestart(t *testing.T) {
	u := admin(t)
	secrets := clientset(t).HsmV1alpha1().HSMSecrets(u.namespace)
	acknowledged := map[string]*v1alpha1.HSMSecret{}
	for i := range 20 {
		name := fmt.Sprintf("db-%d", i)
		secret, err := secrets.Create(t.Context(), &v1alpha1.HSMSecret{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Data:       map[string][]byte{"password": []byte(name)},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		acknowledged[name] = secret
	}
	if err := secrets.Delete(t.Context(), "db-19", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	delete(acknowledged, "db-19")
	seen := acknowledged["db-18"].ResourceVersion

	restart(t)

	list, err := secrets.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(list.Items), len(acknowledged); got != want {
		t.Errorf("%d objects after the restart, want %d", got, want)
	}
	for _, secret := range list.Items {
		want, ok := acknowledged[secret.Name]
		if !ok {
			t.Errorf("%s was not there before", secret.Name)
			continue
		}
		if secret.UID != want.UID || secret.ResourceVersion != want.ResourceVersion || string(secret.Data["password"]) != secret.Name {
			t.Errorf("%s came back as uid %s, resourceVersion %s; it was uid %s, resourceVersion %s",
				secret.Name, secret.UID, secret.ResourceVersion, want.UID, want.ResourceVersion)
		}
	}

	// From before the restart: what happened since, or 410.
	w, err := secrets.Watch(t.Context(), metav1.ListOptions{ResourceVersion: seen})
	switch {
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
	case err != nil:
		t.Fatal(err)
	default:
		defer w.Stop()
		event := <-w.ResultChan()
		status := apierrors.FromObject(event.Object)
		if event.Type == watch.Error && (apierrors.IsResourceExpired(status) || apierrors.IsGone(status)) {
			break
		}
		if name := event.Object.(metav1.Object).GetName(); name != "db-19" {
			t.Errorf("the watch went on with %s %s", event.Type, name)
		}
	}
}

// restart kills agent and API server, and starts them again.
func restart(t *testing.T) {
	t.Helper()
	hsm.Agent.Kill()
	hsm.APIServer.Kill()
	if err := hsm.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	startAPIServer(t)
}

func startAPIServer(t *testing.T) {
	t.Helper()
	if err := hsm.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, 30*time.Second, func(context.Context) error {
		_, err := clientset(t).HsmV1alpha1().HSMSecrets("default").List(t.Context(), metav1.ListOptions{})
		return err
	})
}

// TestAgentStopped has no agent at all: HSMSecrets are unavailable, and say why;
// they are never "not found", and nothing else suffers.
func TestAgentStopped(t *testing.T) {
	u := admin(t)
	u.apply(db("db", "one"), "--server-side")
	// What kubectl takes on this machine when all is well.
	start := time.Now()
	u.run("get", "hsmsecret", "db")
	limit := 5*time.Second + 5*time.Since(start)
	hsm.Agent.Kill()
	t.Cleanup(func() {
		if t.Failed() {
			_ = hsm.StartAgent(context.Background())
		}
	})
	for _, args := range [][]string{
		{"get", "hsmsecret", "db"},
		{"get", "hsmsecret", "nothing-of-this-name"},
		{"get", "hsmsecret"},
		{"get", "hsmsecret", "db", "-o", "yaml"},
		{"delete", "hsmsecret", "db"},
	} {
		start := time.Now()
		said := u.fail(args...)
		contains(t, said, "ServiceUnavailable", hsm.AgentAddress)
		if strings.Contains(said, "NotFound") {
			t.Errorf("kubectl %v: an unavailable object is called not found", args)
		}
		if took := time.Since(start); took > limit {
			t.Errorf("kubectl %v took %s, want at most %s", args, took, limit)
		}
	}
	u.run("get", "pods")
	contains(t, u.run("api-resources"), "hsmsecrets", "deployments")
	contains(t, u.run("explain", "hsmsecret"), "HSMSecret")
	u.run("get", "hsmdevices")
	if err := hsm.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, 10*time.Second, func(context.Context) error {
		_, _, err := u.try("get", "hsmsecret", "db")
		return err
	})
	u.expect("value", u.value("db"), "one")
}

// TestNoValueInTheClear writes a value through the whole product, and looks for
// it in everything that was written anywhere.
func TestNoValueInTheClear(t *testing.T) {
	u := admin(t)
	canary, control := "canary-7c1f0a9be2", "control-55d2e80c41"
	u.apply(db("db", canary))
	u.apply(db("db", canary+"-2"), "--server-side", "--force-conflicts")
	u.expect("value", u.value("db"), canary+"-2")
	u.run("describe", "hsmsecret", "db")
	// Where a core Secret lies in the clear, the search must find it.
	u.with(control).run("create", "secret", "generic", "control", "--from-file=password=/dev/stdin")

	places := map[string]string{
		"token":              hsm.Token.Dir,
		"agent's state":      hsm.StateDir(),
		"our logs":           hsm.LogDir(),
		"Kubernetes' logs":   hsm.ControlPlane.LogDir,
		"etcd":               hsm.EtcdDataDir,
		"API server's files": filepath.Dir(hsm.AgentClient.CertFile),
	}
	found := 0
	for place, dir := range places {
		for _, path := range filesWith(t, dir, canary) {
			found++
			t.Errorf("the value of a secret is in the clear: %s: %s", place, path)
		}
	}
	if len(filesWith(t, hsm.EtcdDataDir, control)) == 0 {
		t.Error("the search did not find the value of a core Secret in etcd: it proves nothing")
	}
	fmt.Printf("figure: canary-places-searched %d\n", len(places))
	fmt.Printf("figure: canary-found %d\n", found)
}
