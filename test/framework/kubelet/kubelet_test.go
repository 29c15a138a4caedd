// SPDX-License-Identifier: Apache-2.0

package kubelet_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/kubelet"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/softhsm"
	"j5t.io/hsm/test/framework/suite"
)

const deployment = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent, namespace: default}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: agent, namespace: default}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      serviceAccountName: agent
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 20
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchFields: [{key: metadata.name, operator: In, values: [node-2]}]
      containers:
      - name: agent
        image: registry.example.com/hsm-agent:latest
        args:
        - --pkcs11-module=LIBRARY
        - --token-serial=SERIAL
        - --pin-file=/pin/pin
        - --state-dir=/state
        - --listen=$(POD_IP):9443
        - --tls-cert-file=/tls/tls.crt
        - --tls-private-key-file=/tls/tls.key
        - --client-ca-file=/tls/ca.crt
        - --provision
        env:
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        ports: [{name: grpc, containerPort: 9443}]
        readinessProbe: {tcpSocket: {port: grpc}, periodSeconds: 1}
        volumeMounts:
        - {name: pin, mountPath: /pin}
        - {name: tls, mountPath: /tls}
        - {name: state, mountPath: /state}
        - {name: scratch, mountPath: /scratch}
      volumes:
      - {name: pin, secret: {secretName: pin, defaultMode: 0400}}
      - {name: tls, secret: {secretName: tls}}
      - {name: scratch, emptyDir: {}}
      - {name: state, hostPath: {path: /var/lib/hsm-agent/a, type: DirectoryOrCreate}}
`

type fixture struct {
	*controlplane.ControlPlane
	client  kubernetes.Interface
	token   softhsm.Token
	options kubelet.Options
}

// TestDeployment takes an agent's Deployment through what happens to pods.
func TestDeployment(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := setUp(ctx, t)
	other := f.options
	other.Node, other.Dir = "node-1", t.TempDir()
	start(ctx, t, other)
	node := start(ctx, t, f.options)

	f.apply(ctx, t, strings.NewReplacer("LIBRARY", f.token.Library, "SERIAL", f.token.Serial).Replace(deployment))
	waiting := f.pod(t, "waits for its Secrets", func(pod *corev1.Pod) error {
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && strings.Contains(condition.Message, `"pin" not found`) {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", pod.Status.Conditions)
	})
	if waiting.Spec.NodeName != "node-2" {
		t.Errorf("the pod is bound to %q, its affinity names node-2", waiting.Spec.NodeName)
	}
	f.secret(ctx, t, "pin", map[string][]byte{"pin": []byte(f.token.PIN + "\n")})
	f.secret(ctx, t, "tls", certificate(t))
	first := f.pod(t, "is ready", isReady)
	ended := process.RunningWith(t, first.Status.PodIP)
	if len(ended) != 1 {
		t.Fatalf("%d processes have the address of the pod", len(ended))
	}
	// Ready is an agent that listens; it may still read its token.
	await.NoError(t, time.Minute, func(context.Context) error {
		_, err := os.Stat(filepath.Join(node.Root(), "var/lib/hsm-agent/a/store-id"))
		return err
	})

	// A changed Secret is in the files, and none of them is ever missing.
	f.secret(ctx, t, "pin", map[string][]byte{"pin": []byte(f.token.PIN + "\n"), "new-pin": []byte("x")})
	pins := filepath.Join(f.options.Dir, "pods", string(first.UID), "volumes/pin")
	await.NoError(t, time.Minute, func(context.Context) error {
		_, err := os.ReadFile(filepath.Join(pins, "new-pin"))
		return err
	})
	if info, err := os.Stat(filepath.Join(pins, "pin")); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("the PIN file: %v %v", info, err)
	}

	if err := node.Kill("default", first.Name); err != nil {
		t.Fatal(err)
	}
	f.pod(t, "is started again", func(pod *corev1.Pod) error {
		if restarts := pod.Status.ContainerStatuses[0].RestartCount; restarts != 1 {
			return fmt.Errorf("%d restarts", restarts)
		}
		return isReady(pod)
	})

	node.Stop()
	if left := process.RunningWith(t, first.Status.PodIP); len(left) != 0 {
		t.Errorf("after the power cut run %q", left)
	}
	node = start(ctx, t, f.options)
	second := f.pod(t, "is back after the power cut", func(pod *corev1.Pod) error {
		if pod.Status.PodIP == first.Status.PodIP {
			return errors.New("no new address yet")
		}
		return isReady(pod)
	})

	if err := f.client.AppsV1().Deployments("default").Delete(ctx, "agent", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, time.Minute, func(ctx context.Context) error {
		_, err := f.client.CoreV1().Pods("default").Get(ctx, second.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there: %w", err)
	})
	if left := process.RunningWith(t, second.Status.PodIP); len(left) != 0 {
		t.Errorf("the pod is gone, and %q run", left)
	}
	if _, err := os.Stat(filepath.Join(node.Dir, "pods", string(second.UID))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pod is gone, and its volumes: %v", err)
	}
}

func setUp(ctx context.Context, t *testing.T) *fixture {
	t.Helper()
	plane := suite.StartControlPlane(t, controlplane.Options{ControllerManager: true})
	client, err := kubernetes.NewForConfig(plane.Admin)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := assets.Own(ctx, os.Stderr, "agent")
	if err != nil {
		t.Fatal(err)
	}
	token := softhsm.New(t)
	return &fixture{plane, client, token, kubelet.Options{
		Node: "node-2", Config: plane.Admin, Dir: t.TempDir(), Bind: true, Env: token.Env,
		Programs: map[string]kubelet.Program{"hsm-agent": {Path: agent}},
	}}
}

func start(ctx context.Context, t *testing.T, o kubelet.Options) *kubelet.Kubelet {
	t.Helper()
	k, err := kubelet.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.Stop()
		logs, _ := filepath.Glob(filepath.Join(o.Dir, "logs", "*"))
		for _, log := range logs {
			if content, err := os.ReadFile(log); t.Failed() && err == nil {
				t.Logf("%s:\n%s", log, content[max(0, len(content)-4<<10):])
			}
		}
	})
	return k
}

func certificate(t *testing.T) map[string][]byte {
	t.Helper()
	ca, err := pki.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("agent", pki.Server)
	if err != nil {
		t.Fatal(err)
	}
	data := map[string][]byte{"ca.crt": ca.Bundle}
	for name, file := range map[string]string{"tls.crt": cert, "tls.key": key} {
		if data[name], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

func (f *fixture) apply(ctx context.Context, t *testing.T, manifest string) {
	t.Helper()
	kubectl := f.Kubectl(f.AdminKubeconfig)
	kubectl.Stdin = strings.NewReader(manifest)
	if _, _, err := kubectl.Run(ctx, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) secret(ctx context.Context, t *testing.T, name string, data map[string][]byte) {
	t.Helper()
	secrets := f.client.CoreV1().Secrets("default")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	_, err := secrets.Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// pod waits until the Deployment's one pod is as wanted.
func (f *fixture) pod(t *testing.T, what string, wanted func(*corev1.Pod) error) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	await.NoError(t, time.Minute, func(ctx context.Context) error {
		pods, err := f.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=agent"})
		if err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("%d pods", len(pods.Items))
		}
		pod = &pods.Items[0]
		if err := wanted(pod); err != nil {
			return fmt.Errorf("the pod %s: %w", what, err)
		}
		return nil
	})
	return pod
}

func isReady(pod *corev1.Pod) error {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("not ready: %v %v", pod.Status.Conditions, pod.Status.ContainerStatuses)
}
