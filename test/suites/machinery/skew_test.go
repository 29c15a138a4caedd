// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/suite"
)

// oneMinorOlder is the version before the one that all binaries here are made
// from. What a binary emulates is the APIs and features of that version
// (KEP-4330), not its bugs.
const oneMinorOlder = "1.36"

// TestOlderServer runs our server as one of the minor version before, behind
// the newer kube-apiserver.
func TestOlderServer(t *testing.T) {
	hsm.APIServer.Kill()
	must(t, hsm.StartAPIServer(t.Context(), "--emulated-version="+oneMinorOlder))
	t.Cleanup(func() {
		hsm.APIServer.Kill()
		if err := hsm.StartAPIServer(context.Background()); err != nil {
			t.Error(err)
		}
	})
	emulates(t, direct(t, newUser(t, "older")))
	await.NoError(t, 30*time.Second, func(context.Context) error {
		_, err := secrets(t, hsm.Admin, "default").List(t.Context(), metav1.ListOptions{})
		return err
	})
	use(t, hsm.Admin, namespace(t))
}

// TestOlderCluster runs our server in a cluster of the minor version before:
// what its admission and flow control watch must be served there.
func TestOlderCluster(t *testing.T) {
	older := suite.StartCluster(t, cluster.Options{
		KubeAPIServerArgs: []string{"--emulated-version=" + oneMinorOlder},
		Verbosity:         2,
	})
	emulates(t, older.Admin)
	config, err := older.Direct(older.AdminKubeconfig)
	must(t, err)
	if said := get(t, config, "/readyz/informer-sync", nil); said.code != http.StatusOK {
		t.Errorf("not all informers have what they watch: %s", said.body)
	}
	use(t, older.Admin, "default")
}

// emulates fails unless a server says that it is one minor version older than
// its binary.
func emulates(t *testing.T, config *rest.Config) {
	t.Helper()
	said := get(t, config, "/version", nil)
	var info version.Info
	if err := json.Unmarshal([]byte(said.body), &info); err != nil {
		t.Fatalf("%d: %s: %v", said.code, said.body, err)
	}
	if emulated := info.EmulationMajor + "." + info.EmulationMinor; emulated != oneMinorOlder {
		t.Fatalf("emulates %s, want %s: %s", emulated, oneMinorOlder, said.body)
	}
}

// use goes once through what clients do.
func use(t *testing.T, config *rest.Config, ns string) {
	t.Helper()
	client := secrets(t, config, ns)
	made, err := client.Create(t.Context(), secret("db", "one"), metav1.CreateOptions{})
	must(t, err)
	w, err := client.Watch(t.Context(), metav1.ListOptions{ResourceVersion: made.ResourceVersion})
	must(t, err)
	defer w.Stop()
	patched, err := client.Patch(t.Context(), "db", types.ApplyPatchType,
		[]byte(`{"apiVersion": "hsm.j5t.io/v1alpha1", "kind": "HSMSecret", "metadata": {"name": "db"}, "stringData": {"password": "two"}}`),
		metav1.PatchOptions{FieldManager: "skew", Force: new(true)})
	must(t, err)
	select {
	case event := <-w.ResultChan():
		if seen, ok := event.Object.(metav1.Object); !ok || seen.GetResourceVersion() != patched.ResourceVersion {
			t.Errorf("the watch saw %v", event)
		}
	case <-time.After(await.Limit(30 * time.Second)):
		t.Error("the watch saw nothing")
	}
	read, err := client.Get(t.Context(), "db", metav1.GetOptions{})
	must(t, err)
	if string(read.Data["password"]) != "two" {
		t.Error("the value is not what was applied")
	}
	list, err := client.List(t.Context(), metav1.ListOptions{LabelSelector: "a!=b", FieldSelector: "metadata.name=db"})
	if err == nil && len(list.Items) != 1 {
		err = fmt.Errorf("%d items", len(list.Items))
	}
	must(t, err)
	must(t, client.Delete(t.Context(), "db", metav1.DeleteOptions{}))
}
