// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	resourcev1ac "k8s.io/client-go/applyconfigurations/resource/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/storebinding"
)

const (
	// deviceClass is the DeviceClass of all tokens.
	deviceClass = "hsm.j5t.io"
	// requestName is the token's name in a ResourceClaim.
	requestName = "token"

	nameLabel, partOfLabel = "app.kubernetes.io/name", "app.kubernetes.io/part-of"
	appName, partOf        = "hsm-agent", "hsm"
)

// ensure applies all objects of an agent. The Deployment is the last: its pods find what
// they need.
func (r *reconciler) ensure(ctx context.Context, existing existingObjects, f *facts, a agent, p pin) error {
	device, name := f.devices[a.device], a.name()
	owners := r.owners(device)
	if existing := existing[r.Issuer.Kind()][certs.AgentSecret(name)]; existing == nil || !equality.Semantic.DeepEqual(existing.OwnerReferences, owners) {
		if err := r.Issuer.Agent(ctx, name, owners); err != nil {
			return err
		}
	}
	if err := r.ensurePIN(ctx, existing, a, device, p); err != nil {
		return err
	}
	account := corev1ac.ServiceAccount(name, r.SystemNamespace).WithAutomountServiceAccountToken(false)
	account.ObjectMetaApplyConfiguration = r.meta(name, a, device)
	if err := r.apply(ctx, existing, serviceAccountKind, name, account); err != nil {
		return err
	}
	service := corev1ac.Service(name, r.SystemNamespace).WithSpec(corev1ac.ServiceSpec().
		WithSelector(map[string]string{agentname.ObjectLabel: name}).
		WithPorts(corev1ac.ServicePort().WithName("grpc").WithPort(agentv1.Port).WithProtocol(corev1.ProtocolTCP)).
		// An agent that cannot serve answers with the reason.
		WithPublishNotReadyAddresses(true))
	service.ObjectMetaApplyConfiguration = r.meta(name, a, device)
	if err := r.apply(ctx, existing, serviceKind, name, service); err != nil {
		return err
	}
	if r.Access == AccessDRA {
		if err := r.ensureClaim(ctx, existing, a, device); err != nil {
			return err
		}
	}
	if err := r.moveToNode(ctx, existing, f, &a); err != nil {
		return err
	}
	return r.apply(ctx, existing, deploymentKind, name, r.deployment(a, device, p))
}

// moveToNode deletes the Deployment of an agent on another node, and finds out which store
// its token holds: the agent's state, which knows it, stays on that node. While an agent stays
// on its node, the hint stays too, as another one would replace its pod.
func (r *reconciler) moveToNode(ctx context.Context, existing existingObjects, f *facts, a *agent) error {
	old := existing[deploymentKind][a.name()]
	if old != nil {
		was, _ := agentOfDeployment(old)
		if was.node == a.node {
			a.hint = was.hint
			return nil
		}
		// A Deployment waits for its old pod to end, and a pod on a node that is down does
		// not end. A new Deployment does not wait for it.
		if err := r.delete(ctx, deploymentKind, old); err != nil {
			return err
		}
		delete(existing[deploymentKind], a.name())
	}
	if _, member := f.member(*a); member != nil && member.StoreID != "" {
		a.hint = member.StoreID
		return nil
	}
	bound := &corev1.ConfigMap{}
	err := r.client.Get(ctx, types.NamespacedName{Namespace: r.SystemNamespace, Name: storebinding.Name}, bound)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read which store is the cluster's: %w", err)
	}
	a.hint = storebinding.StoreID(bound)
	return nil
}

// ensureClaim applies the claim of an agent's pod. There is one for each node: the claim of
// a pod on a node that is down stays allocated there.
func (r *reconciler) ensureClaim(ctx context.Context, existing existingObjects, a agent, device *v1alpha1.HSMDevice) error {
	name := claimName(a)
	for _, old := range existing[claimKind] {
		if old.Labels[agentname.ObjectLabel] != a.name() || old.Name == name || old.DeletionTimestamp != nil {
			continue
		}
		if err := r.delete(ctx, claimKind, old); err != nil {
			return err
		}
	}
	claim := resourcev1ac.ResourceClaim(name, r.SystemNamespace).WithSpec(resourcev1ac.ResourceClaimSpec().
		WithDevices(resourcev1ac.DeviceClaim().WithRequests(resourcev1ac.DeviceRequest().WithName(requestName).
			WithExactly(resourcev1ac.ExactDeviceRequest().WithDeviceClassName(deviceClass).WithSelectors(
				resourcev1ac.DeviceSelector().WithCEL(resourcev1ac.CELDeviceSelector().WithExpression(attribute.SerialSelector(a.serial))))))))
	claim.ObjectMetaApplyConfiguration = r.meta(name, a, device)
	return r.apply(ctx, existing, claimKind, name, claim)
}

// claimName is the agent's name and a hash of its node's.
func claimName(a agent) string {
	sum := sha256.Sum256([]byte(a.node))
	return a.name() + "-" + hex.EncodeToString(sum[:])[:8]
}

// meta is the metadata of an object of an agent.
func (r *reconciler) meta(name string, a agent, device *v1alpha1.HSMDevice) *metav1ac.ObjectMetaApplyConfiguration {
	m := metav1ac.ObjectMeta().WithName(name).WithNamespace(r.SystemNamespace).
		WithLabels(labelsOf(a)).
		WithAnnotations(map[string]string{SerialAnnotation: a.serial, DeviceAnnotation: a.device.String()})
	for _, owner := range r.owners(device) {
		m.WithOwnerReferences(metav1ac.OwnerReference().WithAPIVersion(owner.APIVersion).WithKind(owner.Kind).
			WithName(owner.Name).WithUID(owner.UID))
	}
	return m
}

func labelsOf(a agent) map[string]string {
	return map[string]string{agentname.ObjectLabel: a.name(), nameLabel: appName, partOfLabel: partOf}
}

// owners of an agent's objects: the HSMDevice. One of another namespace cannot own
// them; the controller alone removes them then.
func (r *reconciler) owners(device *v1alpha1.HSMDevice) []metav1.OwnerReference {
	if device.Namespace != r.SystemNamespace {
		return nil
	}
	return []metav1.OwnerReference{{
		APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "HSMDevice", Name: device.Name, UID: device.UID,
	}}
}

// annotations of a Deployment: all that agentOfDeployment reads.
func (a agent) annotations() map[string]string {
	all := map[string]string{NodeAnnotation: a.node, DevicePathAnnotation: a.path}
	if a.hint != "" {
		all[StoreIDAnnotation] = a.hint
	}
	if !a.absentSince.IsZero() {
		all[AbsentSinceAnnotation] = a.absentSince.UTC().Format(time.RFC3339)
	}
	maps.Copy(all, map[string]string{SerialAnnotation: a.serial, DeviceAnnotation: a.device.String()})
	return all
}
