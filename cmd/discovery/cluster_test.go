// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/suite"
)

const (
	namespace = "hsm-system"
	node      = "node-1"
	ours      = "hsm-discovery-a"
	other     = "hsm-discovery-b"
	manifests = "../../artifacts/deploy/base"
)

// definitions stand in for our own API server, of which discovery sees lists and watches.
const definitions = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hsmdevices.hsm.j5t.io}
spec:
  group: hsm.j5t.io
  scope: Namespaced
  names: {kind: HSMDevice, plural: hsmdevices}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hsmpools.hsm.j5t.io}
spec:
  group: hsm.j5t.io
  scope: Namespaced
  names: {kind: HSMPool, plural: hsmpools}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

const device = `
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMDevice
metadata: {name: pico, namespace: hsm-system}
spec:
  deviceType: PicoHSM
  discovery: {autoDiscovery: true}
  maxDevices: 10
  nodeSelector: {hsm: "true"}
`

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cluster is a control plane with discovery's manifests, a node, and two discovery pods
// that no kubelet runs.
type cluster struct {
	*controlplane.ControlPlane
	client kubernetes.Interface
	// token is bound to the pod ours, as kubelet mounts it.
	token *rest.Config
	// kubeconfig is the same as a file.
	kubeconfig string
}

func newCluster(ctx context.Context, t *testing.T) *cluster {
	t.Helper()
	plane := suite.StartControlPlane(t, controlplane.Options{ControllerManager: true, Scheduler: true})
	c := &cluster{ControlPlane: plane}
	var err error
	c.client, err = kubernetes.NewForConfig(plane.Admin)
	must(t, err)
	for _, file := range []string{"namespace.yaml", "discovery.yaml"} {
		c.kubectl(ctx, t, "", "apply", "-f", filepath.Join(manifests, file))
	}
	c.kubectl(ctx, t, definitions, "apply", "-f", "-")
	c.kubectl(ctx, t, "", "wait", "--for=condition=Established", "--timeout=5m", "crd/hsmdevices.hsm.j5t.io", "crd/hsmpools.hsm.j5t.io")
	c.kubectl(ctx, t, device, "apply", "-f", "-")

	_, err = c.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"hsm": "true"}}}, metav1.CreateOptions{})
	must(t, err)
	for _, name := range []string{ours, other} {
		c.createPod(ctx, t, name)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: ours},
	}}
	request, err = c.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "hsm-discovery", request, metav1.CreateOptions{})
	must(t, err)
	c.token = rest.AnonymousClientConfig(plane.Admin)
	c.token.BearerToken = request.Status.Token
	c.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"local": {Server: plane.URL, CertificateAuthority: plane.CAFile}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"discovery": {Token: request.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{"local": {Cluster: "local", AuthInfo: "discovery"}},
		CurrentContext: "local",
	}, c.kubeconfig))
	return c
}

func (c *cluster) kubectl(ctx context.Context, t *testing.T, stdin string, args ...string) {
	t.Helper()
	kubectl := c.Kubectl(c.AdminKubeconfig)
	kubectl.Stdin = strings.NewReader(stdin)
	_, _, err := kubectl.Run(ctx, args...)
	must(t, err)
}

// createPod makes a pod like those of the DaemonSet, whose controller must not take it
// for one of its own: two on a node are one too many.
func (c *cluster) createPod(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	daemonSet, err := c.client.AppsV1().DaemonSets(namespace).Get(ctx, "hsm-discovery", metav1.GetOptions{})
	must(t, err)
	template := daemonSet.Spec.Template
	template.Spec.NodeName = node
	_, err = c.client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"example.com/network": "1"}},
		Spec:       template.Spec,
	}, metav1.CreateOptions{})
	must(t, err)
}
