// SPDX-License-Identifier: Apache-2.0

// Package product installs the product as its manifests do, on a cluster of this machine
// whose nodes are those of package kubelet. It owns what differs there from a cluster with
// containers and a network (folder machine), and nothing else. Package cluster starts the
// binaries itself, without manifests.
package product

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/kubelet"
	"j5t.io/hsm/test/framework/softhsm"
)

const (
	// Namespace is where the manifests put the product.
	Namespace = "hsm-system"
	// ControlRole is the value of the label "role" of nodes that run the API server and
	// the controller.
	ControlRole = "control"

	// Base and SoftHSM are kustomizations for this machine, of artifacts/deploy/base and of
	// artifacts/deploy/overlays/softhsm. SoftHSM is applied once the API server runs.
	Base    = "test/framework/product/base"
	SoftHSM = "test/framework/product/softhsm"

	// library is where the manifests expect SoftHSM.
	library      = "/usr/lib/softhsm/libsofthsm2.so"
	routeTimeout = 20 * time.Minute
)

// Programs builds the binaries of the product, and says what image each of them stands for.
func Programs(ctx context.Context, progress io.Writer) (map[string]kubelet.Program, error) {
	programs := map[string]kubelet.Program{
		"hsm-agent":      {Absent: []string{"/usr/sbin/pcscd"}},
		"hsm-apiserver":  {KubeconfigFlags: []string{"kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"}},
		"hsm-controller": {KubeconfigFlags: []string{"kubeconfig"}},
		"hsm-discovery": {
			KubeconfigFlags: []string{"kubeconfig"},
			NodePathFlags:   map[string]string{"kubelet-dir": "/var/lib/kubelet", "cdi-dir": "/var/run/cdi"},
		},
	}
	for _, image := range slices.Sorted(maps.Keys(programs)) {
		program := programs[image]
		path, err := assets.Own(ctx, progress, strings.TrimPrefix(image, "hsm-"))
		if err != nil {
			return nil, err
		}
		program.Path = path
		programs[image] = program
	}
	return programs, nil
}

// Manifests are those of a kustomization in a folder of the checkout, with the path of
// SoftHSM's library on this machine.
func Manifests(ctx context.Context, kubectl controlplane.Kubectl, folder string) (string, error) {
	root, err := assets.Checkout(ctx)
	if err != nil {
		return "", err
	}
	manifests, _, err := kubectl.Run(ctx, "kustomize", filepath.Join(root, folder))
	if err != nil || !strings.Contains(manifests, library) {
		return manifests, err
	}
	found, err := softhsm.Module()
	return strings.ReplaceAll(manifests, library, found), err
}

// Route makes the Service of the API server, which leads to the first of its pods that is
// ready: nobody routes the addresses of Services here.
func Route(ctx context.Context, client kubernetes.Interface) error {
	var address string
	err := await.Poll(ctx, routeTimeout, func(ctx context.Context) (err error) {
		address, err = readyAddress(ctx, client)
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for a pod of the API server: %w", err)
	}
	_, err = client.CoreV1().Services(Namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "hsm-apiserver"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: address},
	}, metav1.CreateOptions{})
	return err
}

func readyAddress(ctx context.Context, client kubernetes.Interface) (string, error) {
	pods, err := client.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=hsm-apiserver"})
	if err != nil {
		return "", err
	}
	var waiting []error
	for i := range pods.Items {
		pod := &pods.Items[i]
		if Ready(pod) {
			return pod.Status.PodIP, nil
		}
		waiting = append(waiting, fmt.Errorf("%s is not ready: %v", pod.Name, pod.Status.Conditions))
	}
	if len(waiting) == 0 {
		return "", errors.New("there is none")
	}
	return "", errors.Join(waiting...)
}

// Ready reports whether a pod is ready.
func Ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
