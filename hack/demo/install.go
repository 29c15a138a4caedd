// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/kubernetes"

	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/kubelet"
	"j5t.io/hsm/test/framework/product"
)

// installation is a cluster of one node with the whole product, as docs/installation.md installs it
// where there is no hardware.
type installation struct {
	state
	progress io.Writer
	plane    *controlplane.ControlPlane
	node     *kubelet.Kubelet
	visitor  string // kubeconfig of a user without rights
}

func (i *installation) stop() {
	if i.node != nil {
		i.node.Stop()
	}
	if i.plane != nil {
		i.plane.Stop()
	}
}

func (i *installation) start(ctx context.Context) (err error) {
	i.say("Building the programs of the product: agent, apiserver, controller, discovery.")
	programs, err := product.Programs(ctx, i.progress)
	if err != nil {
		return err
	}
	i.say("Looking for etcd, kube-apiserver, kube-controller-manager and kubectl.")
	if err := i.linkCommands(ctx); err != nil {
		return err
	}
	i.say("Starting etcd, kube-apiserver and kube-controller-manager.")
	i.plane, err = controlplane.Start(ctx, controlplane.Options{Dir: i.runDir(), ControllerManager: true, Progress: i.progress})
	if err != nil {
		return err
	}
	if i.visitor, err = i.plane.AddUser("visitor"); err != nil {
		return err
	}
	i.say("Starting a node.")
	if err := i.startNode(ctx, programs); err != nil {
		return err
	}
	i.say("Installing artifacts/deploy/base: the API server, the controller and discovery start.")
	if err := i.installBase(ctx); err != nil {
		return err
	}
	i.say("Installing artifacts/deploy/overlays/softhsm: a software token is found, and an agent starts for it.")
	return i.installToken(ctx)
}

// linkCommands puts what the walk calls into one folder.
func (i *installation) linkCommands(ctx context.Context) error {
	found, err := assets.Find(ctx, i.progress, assets.Etcd, assets.KubeAPIServer, assets.KubeControllerManager, assets.Kubectl)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(i.binDir(), 0o700); err != nil {
		return err
	}
	for _, name := range []string{assets.Etcd, assets.Kubectl} {
		link := filepath.Join(i.binDir(), name)
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(found[name], link); err != nil {
			return err
		}
	}
	return nil
}

func (i *installation) startNode(ctx context.Context, programs map[string]kubelet.Program) (err error) {
	if _, err := sysfstest.New(filepath.Join(i.runDir(), "root")); err != nil {
		return err
	}
	i.node, err = kubelet.Start(ctx, kubelet.Options{
		Node:     "demo",
		Labels:   map[string]string{"role": product.ControlRole, "hsm.j5t.io/softhsm": "true"},
		Config:   i.plane.Admin,
		Dir:      i.runDir(),
		Programs: programs,
		Bind:     true,
	})
	return err
}

func (i *installation) installBase(ctx context.Context) error {
	if err := i.apply(ctx, product.Base); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(i.plane.Admin)
	if err != nil {
		return err
	}
	if err := product.Route(ctx, client); err != nil {
		return err
	}
	return i.kubectl(ctx, "", "wait", "--for=condition=Available", "--timeout=20m", "apiservice/v1alpha1.hsm.j5t.io")
}

func (i *installation) installToken(ctx context.Context) error {
	if err := i.apply(ctx, product.SoftHSM); err != nil {
		return err
	}
	// The controller makes the HSMPool and the agent's pod.
	for _, wait := range [][]string{
		{"--for=create", "hsmpool/softhsm"},
		{"--for=condition=Ready", "hsmpool/softhsm"},
		{"--for=condition=Ready", "pod", "--all"},
	} {
		if err := i.kubectl(ctx, "", append([]string{"wait", "--timeout=20m", "--namespace=" + product.Namespace}, wait...)...); err != nil {
			return err
		}
	}
	return nil
}

func (i *installation) apply(ctx context.Context, folder string) error {
	manifests, err := product.Manifests(ctx, i.plane.Kubectl(i.plane.AdminKubeconfig), folder)
	if err != nil {
		return err
	}
	return i.kubectl(ctx, manifests, "apply", "--server-side", "--filename=-")
}

func (i *installation) kubectl(ctx context.Context, stdin string, args ...string) error {
	kubectl := i.plane.Kubectl(i.plane.AdminKubeconfig)
	kubectl.Stdin = strings.NewReader(stdin)
	_, _, err := kubectl.Run(ctx, args...)
	return err
}

// variables are those of the walk.
func (i *installation) variables() [][2]string {
	return [][2]string{
		{dirVariable, i.dir},
		{"KUBECONFIG", i.plane.AdminKubeconfig},
		{"KUBECACHEDIR", filepath.Join(i.runDir(), "kubectl-cache")},
		{"VISITOR", i.visitor},
		{"ETCD", i.plane.EtcdDataDir},
		// The folder of the overlay softhsm, and that of the agents (pkg/controller/agents).
		{"TOKEN", filepath.Join(i.node.Root(), "var/lib/hsm-softhsm")},
		{"AGENT_STATE", filepath.Join(i.node.Root(), "var/lib/hsm-agent")},
		{"LOGS", i.logDir()},
	}
}

func (i *installation) say(what string) { fmt.Fprintln(i.progress, what) }
