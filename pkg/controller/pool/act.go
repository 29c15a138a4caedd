// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	agentclient "j5t.io/hsm/pkg/agent/client"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

// create makes the pool of an HSMDevice. Its status is for the next decision, which its
// creation causes.
func (r *reconciler) create(ctx context.Context, device *v1alpha1.HSMDevice) error {
	pool, err := r.newPool(device)
	if err == nil {
		err = r.client.Create(ctx, pool, client.FieldOwner(identity.FieldManager))
	}
	switch {
	case apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return nil // The cache lags, or the namespace is gone.
	case err != nil:
		return fmt.Errorf("make HSMPool %s: %w", keyOf(device), err)
	}
	return nil
}

func (r *reconciler) newPool(device *v1alpha1.HSMDevice) (*v1alpha1.HSMPool, error) {
	pool := &v1alpha1.HSMPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: device.Namespace, Name: device.Name},
		Spec:       v1alpha1.HSMPoolSpec{HSMDeviceRefs: []string{device.Name}},
	}
	if m := device.Spec.Mirroring; m != nil && m.Policy != "" && m.Policy != v1alpha1.MirroringPolicyNone {
		pool.Spec.Mirroring = &v1alpha1.PoolMirroring{Enabled: true}
	}
	// To block the deletion of the HSMDevice, the controller would need rights to its
	// finalizers. Nothing depends on the pool being deleted first.
	err := controllerutil.SetControllerReference(device, pool, r.client.Scheme(), controllerutil.WithBlockOwnerDeletion(false))
	return pool, err
}

// recordNotOwned makes one Event of a pool that was not made for its HSMDevice.
func (r *reconciler) recordNotOwned(p notOwnedPool) {
	if r.notOwned[p.pool.UID] {
		return
	}
	r.notOwned[p.pool.UID] = true
	r.recorder.Eventf(p.pool, corev1.EventTypeWarning, eventNotOwned,
		"the pool was not made for HSMDevice %s: it is not taken over, and is not deleted with the HSMDevice", p.device)
}

// poll has the agents of all members polled.
func (r *reconciler) poll(d decision) {
	r.endpoints = map[string]agentclient.Endpoint{}
	polled := map[agentclient.Endpoint]bool{}
	for _, status := range d.statuses {
		for i := range status.Members {
			member := &status.Members[i]
			if member.AgentEndpoint == "" {
				continue
			}
			endpoint := agentclient.Endpoint{Address: member.AgentEndpoint, ServerName: agentname.ServerName(member.SerialNumber, r.namespace)}
			r.endpoints[agentname.For(member.SerialNumber)] = endpoint
			polled[endpoint] = true
		}
	}
	r.poller.setAgents(polled)
}

// writeStatus writes a status that has changed, and makes the Events of the change.
func (r *reconciler) writeStatus(ctx context.Context, pool *v1alpha1.HSMPool, status v1alpha1.HSMPoolStatus) error {
	if equality.Semantic.DeepEqual(pool.Status, status) {
		return nil
	}
	before := pool.Status
	changed := pool.DeepCopy()
	changed.Status = status
	err := r.client.Status().Update(ctx, changed, client.FieldOwner(identity.FieldManager))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // The watch shows what has become of it, and another decision follows.
	}
	if err != nil {
		return fmt.Errorf("write the status of HSMPool %s: %w", keyOf(pool), err)
	}
	statusWrites.Inc()
	r.latest[keyOf(pool)], r.written[keyOf(pool)] = changed, r.clock.Now()
	for _, t := range transitions(&before, &status) {
		r.recorder.Event(changed, t.eventType, t.reason, t.message)
	}
	return nil
}
