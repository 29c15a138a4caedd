// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

// notYetCreated is a resourceVersion that no object has, as etcd gives revision 1
// to nothing. An apply with it creates an object, and is refused with 409 where
// there is one: it never takes over what someone else has created meanwhile.
// (k8s.io/apiserver, Store.Update: the version of an object that an apply creates
// is cleared, that of an existing one has to match.)
const notYetCreated = "1"

// act carries out a decision of a pass, and makes the Events of it.
func (r *reconciler) act(ctx context.Context, p *pass, d decision) error {
	if p.facts.answersEdit(d) && !p.state.edits.AllowN(r.clock.Now(), 1) {
		return errEditedTooOften
	}
	if d.reason == reasonBothChanged {
		p.lostEdit = lostEdit(p.pair, r.clock.Now())
	}
	if d.action == replace {
		p.state.kept = keptOf(p.secret)
	}
	before := p.pair
	after, err := r.carryOut(ctx, d, before, p.facts)
	if err != nil {
		return err
	}
	actions.WithLabelValues(string(d.action), d.reason).Inc()
	p.pair, p.done = after, append(p.done, d)
	r.recordAction(d, before, p)
	return nil
}

// carryOut returns the pair as it is afterwards. Every write is bound to the state that
// was decided on.
func (r *reconciler) carryOut(ctx context.Context, d decision, p pair, f facts) (pair, error) {
	var err error
	switch m := metadataFor(p.hsm); d.action {
	case create:
		m = m.withSyncState(f.hsm.dataVersion, f.hsm.syncRequest, d.dataChanged)
		p.secret, err = r.apply(ctx, m.configuration(p.hsm.Namespace, p.hsm.SecretName(), p.hsm.Data).WithResourceVersion(notYetCreated))
	case project:
		m = m.withSyncState(f.hsm.dataVersion, f.hsm.syncRequest, d.dataChanged || f.secret.restartPending)
		p.secret, err = r.write(ctx, m, p.secret, p.hsm.Data)
	case note:
		synced := f.hsm.dataVersion
		if f.secret.checksum != f.hsm.checksum {
			synced = f.secret.synced
		}
		m = m.withSyncState(synced, f.hsm.syncRequest, d.dataChanged || f.secret.restartPending)
		p.secret, err = r.write(ctx, m, p.secret, p.secret.Data)
	case push:
		p.hsm, err = r.push(ctx, p, f)
	case replace:
		if err = r.delete(ctx, p.secret); err == nil {
			// With finalizers it is still there.
			p.secret, err = r.getSecret(ctx, p.hsm)
		}
	case restart:
		if err = r.restart(ctx, p.hsm, f.secret.checksum); err != nil {
			break
		}
		m = m.withSyncState(f.secret.synced, f.secret.syncRequest, false)
		p.secret, err = r.write(ctx, m, p.secret, p.secret.Data)
	}
	return p, err
}

// write gives a Secret its metadata and data.
func (r *reconciler) write(ctx context.Context, m projectedMetadata, secret *corev1.Secret, data map[string][]byte) (*corev1.Secret, error) {
	if !m.removes(secret, data) {
		return r.apply(ctx, m.configuration(secret.Namespace, secret.Name, data).WithResourceVersion(secret.ResourceVersion))
	}
	secret = m.setOn(secret, data)
	if err := r.client.Update(ctx, secret, client.FieldOwner(identity.FieldManager)); err != nil {
		return nil, fmt.Errorf("update Secret %s: %w", secret.Name, err)
	}
	return secret, nil
}

func (r *reconciler) apply(ctx context.Context, configuration *corev1ac.SecretApplyConfiguration) (*corev1.Secret, error) {
	body, err := json.Marshal(configuration)
	if err != nil {
		return nil, fmt.Errorf("encode Secret: %w", err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: *configuration.Namespace, Name: *configuration.Name}}
	if err := r.client.Patch(ctx, secret, client.RawPatch(types.ApplyYAMLPatchType, body), client.FieldOwner(identity.FieldManager), client.ForceOwnership); err != nil {
		return nil, fmt.Errorf("apply Secret %s: %w", *configuration.Name, err)
	}
	return secret, nil
}

// push writes the Secret's data to the token, if the token still is as it was read. The
// annotation says which edit was pushed. Should this process end now, and the Secret be
// edited again, that edit is still known to be one of what the token holds.
func (r *reconciler) push(ctx context.Context, p pair, f facts) (*v1alpha1.HSMSecret, error) {
	pushed := p.hsm.DeepCopy()
	pushed.Data = p.secret.Data
	if pushed.Annotations == nil {
		pushed.Annotations = map[string]string{}
	}
	pushed.Annotations[PushedAnnotation] = f.secret.synced.revision + " " + f.secret.checksum
	if err := r.client.Update(ctx, pushed, client.FieldOwner(identity.FieldManager)); err != nil {
		return nil, fmt.Errorf("write the data of Secret %s to the token: %w", p.secret.Name, err)
	}
	return pushed, nil
}

// delete deletes a Secret that still is as it was read.
func (r *reconciler) delete(ctx context.Context, secret *corev1.Secret) error {
	err := r.client.Delete(ctx, secret, client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Secret %s: %w", secret.Name, err)
	}
	return nil
}

// restart has the workloads replace their pods, by an annotation of the pod
// template that says for which content. To say the same again changes nothing.
func (r *reconciler) restart(ctx context.Context, h *v1alpha1.HSMSecret, sum string) error {
	patch := fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{%s:%s}}}}}`,
		strconv.Quote(contentAnnotation(h.SecretName())), strconv.Quote(sum))
	for _, workload := range h.Spec.RolloutRestartTargets {
		object := metadataOf(workloadKind(workload.Kind))
		object.Namespace, object.Name = h.Namespace, workload.Name
		err := r.client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(identity.FieldManager))
		switch {
		case apierrors.IsNotFound(err):
			r.recorder.Eventf(reference(h), corev1.EventTypeWarning, eventRestartFails, "%s %s of spec.rolloutRestartTargets does not exist", workload.Kind, workload.Name)
		case err != nil:
			return fmt.Errorf("restart %s %s: %w", workload.Kind, workload.Name, err)
		}
	}
	return nil
}

// writeStatus writes the controller's part of a status, and leaves the rest.
func (r *reconciler) writeStatus(ctx context.Context, name types.NamespacedName, status v1alpha1.HSMSecretStatus) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": hsmSecretKind.GroupVersion().String(),
		"kind":       hsmSecretKind.Kind,
		"metadata":   map[string]any{"namespace": name.Namespace, "name": name.Name},
		"status":     status,
	})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	h := metadataOf(hsmSecretKind)
	h.Namespace, h.Name = name.Namespace, name.Name
	statusWrites.Inc()
	err = r.client.Status().Patch(ctx, h, client.RawPatch(types.ApplyYAMLPatchType, body), client.FieldOwner(identity.FieldManager), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
