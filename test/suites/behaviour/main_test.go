// SPDX-License-Identifier: Apache-2.0

// Package behaviour runs the controller, with the rights of its manifests, on
// the whole product: kube-apiserver, kube-controller-manager with its garbage
// collector, API server, agent and a SoftHSM token.
package behaviour

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/suite"
)

// hsm is the cluster that all tests share, core and secrets its administrator;
// viewer may see HSMSecrets, but no values, and so does not trouble the token.
var (
	hsm     *cluster.Cluster
	core    kubernetes.Interface
	secrets versioned.Interface
	viewer  versioned.Interface
	// projector is the controller that projects all namespaces, through its proxy.
	projector *controller
)

func TestMain(m *testing.M) { suite.Main(m, setUp) }

func setUp(ctx context.Context, s *suite.Suite) (err error) {
	if hsm, err = s.StartCluster(ctx, cluster.Options{ControllerManager: true, Verbosity: 2}); err != nil {
		return err
	}
	if core, err = kubernetes.NewForConfig(hsm.Admin); err != nil {
		return err
	}
	if secrets, err = versioned.NewForConfig(hsm.Admin); err != nil {
		return err
	}
	kubeconfig, err := hsm.AddUser("viewer")
	if err != nil {
		return err
	}
	config, err := controlplane.Config(kubeconfig)
	if err != nil {
		return err
	}
	config.WarningHandler = rest.NoWarnings{} // Of values that are not shown.
	if viewer, err = versioned.NewForConfig(config); err != nil {
		return err
	}
	if _, _, err := hsm.Kubectl(hsm.AdminKubeconfig).Run(ctx, "create", "clusterrolebinding", "viewer", "--clusterrole=hsm-view", "--user=viewer"); err != nil {
		return err
	}
	for _, manifest := range []string{"controller.yaml", "controller-cluster-rbac.yaml"} {
		if err := applyManifest(ctx, manifest); err != nil {
			return err
		}
	}
	if projector, err = startController(ctx, "controller", "hsm-controller"); err != nil {
		return err
	}
	s.Cleanup(projector.stop)
	return nil
}

// applyManifest applies one of those that the product is deployed by.
func applyManifest(ctx context.Context, name string, args ...string) error {
	args = append(args, "apply", "--filename="+hsm.Manifest(name))
	_, _, err := hsm.Kubectl(hsm.AdminKubeconfig).Run(ctx, args...)
	return err
}

// controller is a process of cmd/controller, which reaches kube-apiserver
// through a proxy.
type controller struct {
	*process.Process
	proxy *proxy
}

var controllers atomic.Int32

// startController starts one with the rights of a ServiceAccount of the system
// namespace, and waits until it runs.
func startController(ctx context.Context, name, account string, args ...string) (*controller, error) {
	kubeconfig, err := hsm.AddServiceAccount(cluster.SystemNamespace, account)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(filepath.Dir(hsm.LogDir()), fmt.Sprintf("proxy-%d", controllers.Add(1)))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &controller{}
	if c.proxy, err = newProxy(dir, kubeconfig); err != nil {
		return nil, err
	}
	binary, err := assets.OwnWithRaces(ctx, os.Stderr, "controller")
	if err != nil {
		return nil, err
	}
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	spec := process.Spec{
		Name: name,
		Path: binary,
		Args: append([]string{
			"--kubeconfig=" + c.proxy.kubeconfig,
			"--system-namespace=" + cluster.SystemNamespace,
			"--leader-elect=false",
			"--listen-address=" + address,
			"-v=4",
		}, args...),
		LogFile: filepath.Join(hsm.LogDir(), name+".log"),
		Ready:   healthy("http://" + address + "/healthz"),
	}
	c.Process, err = process.Start(ctx, spec)
	return c, err
}

// restart starts the process again after its end.
func (c *controller) restart(ctx context.Context) (err error) {
	c.Process, err = process.Start(ctx, c.Spec)
	return err
}

func (c *controller) stop() {
	c.Kill()
	c.proxy.stop()
}

func healthy(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}

// newNamespace makes a namespace for a test; a test that needs more names them.
func newNamespace(t testing.TB, suffix ...string) string {
	t.Helper()
	name := strings.Join(append([]string{t.Name()}, suffix...), "-")
	namespace := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", ",", "", "#", "-").Replace(name))
	if _, _, err := hsm.Kubectl(hsm.AdminKubeconfig).Run(t.Context(), "create", "namespace", namespace); err != nil {
		t.Fatal(err)
	}
	return namespace
}
