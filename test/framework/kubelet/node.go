// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/discovery/deviceplugin/deviceplugintest"
)

// Heartbeats as kubelet sends them by default: kube-controller-manager takes a node for
// lost 50 s after the last one.
const (
	leaseDuration = 40 * time.Second
	leaseInterval = 10 * time.Second
)

// dir is kubelet's own folder.
func (k *Kubelet) dir() string { return filepath.Join(k.Root(), "var/lib/kubelet") }

func (k *Kubelet) makeFolders() error {
	for _, name := range []string{"plugins", "plugins_registry", deviceplugintest.Folder} {
		if err := os.MkdirAll(filepath.Join(k.dir(), name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kubelet) register(ctx context.Context) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.Node, Labels: map[string]string{
		corev1.LabelHostname: k.Node, corev1.LabelOSStable: "linux",
	}}}
	for name, value := range k.Labels {
		node.Labels[name] = value
	}
	nodes := k.client.CoreV1().Nodes()
	if _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	patch := `{"status":{"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady","message":"stand-in for kubelet"}],` +
		`"capacity":{"pods":"110","cpu":"64","memory":"64Gi"},"allocatable":{"pods":"110","cpu":"64","memory":"64Gi"}}}`
	_, err := nodes.Patch(ctx, k.Node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	return err
}

// heartbeat renews the node's lease.
func (k *Kubelet) heartbeat(ctx context.Context) {
	leases := k.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	lease, err := leases.Get(ctx, k.Node, metav1.GetOptions{})
	switch {
	case err == nil:
		lease.Spec.RenewTime = &now
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	case apierrors.IsNotFound(err):
		seconds := int32(leaseDuration / time.Second)
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: k.Node},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &k.Node, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
	}
	if err != nil && ctx.Err() == nil {
		klog.ErrorS(err, "Cannot renew the lease of the node", "node", k.Node)
	}
}

// bind takes a pod that may run here. Of several nodes the first that asks has it.
func (k *Kubelet) bind(ctx context.Context, object *corev1.Pod) {
	if object.DeletionTimestamp != nil {
		return
	}
	node, err := k.client.CoreV1().Nodes().Get(ctx, k.Node, metav1.GetOptions{})
	if err == nil && fits(object, node) {
		err = k.client.CoreV1().Pods(object.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: object.Name, UID: object.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: k.Node},
		}, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !errors.Is(err, context.Canceled) {
		klog.ErrorS(err, "Cannot bind a pod", "node", k.Node, "pod", klog.KObj(object))
	}
}

func fits(object *corev1.Pod, node *corev1.Node) bool {
	matches, err := nodeaffinity.GetRequiredNodeAffinity(object).Match(node)
	return err == nil && matches
}
