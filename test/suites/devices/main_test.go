// SPDX-License-Identifier: Apache-2.0

// Package devices takes tokens from the node's USB port to a served secret, with all of
// the product as the manifests install it.
package devices

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/kubelet"
	"j5t.io/hsm/test/framework/product"
	"j5t.io/hsm/test/framework/suite"
)

const (
	system = product.Namespace
	// control runs the API server and the controller, and has no tokens.
	control = product.ControlRole
)

// world is a cluster with the product.
type world struct {
	*controlplane.ControlPlane
	core kubernetes.Interface
	hsm  versioned.Interface
	// root holds the folders of the nodes; short, as sockets are in them.
	root  string
	nodes map[string]*node

	// pool is the HSMPool that is looked at.
	pool     string
	observer *observer
}

// node is a node with its USB bus, which outlives a power cut.
type node struct {
	*kubelet.Kubelet
	options kubelet.Options
	usb     sysfstest.Tree
	// tokens is the folder in which SoftHSM finds the tokens that are plugged in.
	tokens string
}

// newWorld installs the product on nodes with these names, beside that of control.
func newWorld(ctx context.Context, t *testing.T, nodes ...string) *world {
	t.Helper()
	return newWorldOf(ctx, t, controlplane.Options{}, product.Base, nodes...)
}

// newWorldOf installs these manifests in a cluster with these options.
func newWorldOf(ctx context.Context, t *testing.T, o controlplane.Options, manifests string, nodes ...string) *world {
	t.Helper()
	var err error
	w := &world{root: suite.Dir(t), nodes: map[string]*node{}}
	t.Cleanup(w.stop)
	o.Dir, o.ControllerManager, o.Scheduler, o.Progress = filepath.Join(w.root, "kubernetes"), true, true, os.Stderr
	w.ControlPlane, err = controlplane.Start(ctx, o)
	must(t, err)
	w.core, err = kubernetes.NewForConfig(w.Admin)
	must(t, err)
	w.hsm, err = versioned.NewForConfig(w.Admin)
	must(t, err)

	programs, err := product.Programs(ctx, os.Stderr)
	must(t, err)
	for _, name := range append(nodes, control) {
		w.addNode(ctx, t, name, programs)
	}
	w.kubectl(ctx, t, w.manifests(ctx, t, manifests), "apply", "--server-side", "-f", "-")
	must(t, product.Route(ctx, w.core))
	w.kubectl(ctx, t, "", "wait", "--for=condition=Available", "--timeout=20m", "apiservice/v1alpha1.hsm.j5t.io")
	return w
}

func (w *world) manifests(ctx context.Context, t *testing.T, folder string) string {
	t.Helper()
	manifests, err := product.Manifests(ctx, w.Kubectl(w.AdminKubeconfig), folder)
	must(t, err)
	return manifests
}

func (w *world) addNode(ctx context.Context, t *testing.T, name string, programs map[string]kubelet.Program) {
	t.Helper()
	dir := filepath.Join(w.root, name)
	n := &node{tokens: filepath.Join(dir, "tokens")}
	must(t, os.MkdirAll(n.tokens, 0o700))
	conf := filepath.Join(dir, "softhsm2.conf")
	must(t, os.WriteFile(conf, []byte("directories.tokendir = "+n.tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	role := "tokens"
	if name == control {
		role = control
	}
	n.options = kubelet.Options{
		Node: name, Labels: map[string]string{"role": role}, Config: w.Admin, Dir: dir,
		Programs: programs, Env: []string{"SOFTHSM2_CONF=" + conf},
	}
	var err error
	n.usb, err = sysfstest.New(filepath.Join(dir, "root"))
	must(t, err)
	n.Kubelet, err = kubelet.Start(ctx, n.options)
	must(t, err)
	w.nodes[name] = n
}

// cut is a power cut of a node.
func (w *world) cut(name string) { w.nodes[name].Stop() }

// powerUp brings a node back.
func (w *world) powerUp(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	k, err := kubelet.Start(ctx, w.nodes[name].options)
	must(t, err)
	w.nodes[name].Kubelet = k
}

// stop ends all.
func (w *world) stop() {
	for _, n := range w.nodes {
		n.Stop()
	}
	if w.ControlPlane != nil {
		w.Stop()
	}
}

func (w *world) kubectl(ctx context.Context, t *testing.T, stdin string, args ...string) string {
	t.Helper()
	stdout, err := w.try(ctx, stdin, args...)
	must(t, err)
	return stdout
}

func (w *world) try(ctx context.Context, stdin string, args ...string) (string, error) {
	kubectl := w.Kubectl(w.AdminKubeconfig)
	kubectl.Stdin = strings.NewReader(stdin)
	stdout, _, err := kubectl.Run(ctx, args...)
	return stdout, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until the condition returns nil, and says how long it took.
func eventually(ctx context.Context, t *testing.T, what string, condition func(context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := await.Poll(ctx, 2*time.Minute, condition); err != nil {
		t.Fatalf("%s: not in time: %v", what, err)
	}
	return time.Since(began)
}

// linesWith are the lines of a file that have one of the parts.
func linesWith(t *testing.T, file string, parts ...string) []string {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	var lines []string
	for line := range strings.Lines(string(content)) {
		for _, part := range parts {
			if strings.Contains(line, part) {
				lines = append(lines, strings.TrimSpace(line))
				break
			}
		}
	}
	return lines
}
