// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/controller/identity"
)

// applied keeps a hash of what this process has applied to each object, and the
// resourceVersion that the object got: an object that nobody has changed since is not applied
// again. It holds no values.
type applied struct {
	seed   maphash.Seed
	states map[objectKey]appliedState
}

func newApplied() *applied {
	return &applied{seed: maphash.MakeSeed(), states: map[objectKey]appliedState{}}
}

type objectKey struct {
	kind schema.GroupVersionKind
	name string
}

type appliedState struct {
	hash            uint64
	resourceVersion string
}

// apply applies the configuration of an object, unless it is applied already.
func (r *reconciler) apply(ctx context.Context, existing existingObjects, kind schema.GroupVersionKind, name string, configuration any) error {
	body, err := json.Marshal(configuration)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", kind.Kind, name, err)
	}
	hash := maphash.Bytes(r.applied.seed, body)
	key, now := objectKey{kind, name}, existing[kind][name]
	if before, known := r.applied.states[key]; known && now != nil && before == (appliedState{hash, now.ResourceVersion}) {
		return nil
	}
	object := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: r.SystemNamespace, Name: name}}
	object.SetGroupVersionKind(kind)
	if err := r.client.Patch(ctx, object, client.RawPatch(types.ApplyYAMLPatchType, body), client.FieldOwner(identity.AgentsFieldManager), client.ForceOwnership); err != nil {
		return fmt.Errorf("apply %s %s: %w", kind.Kind, name, err)
	}
	if now == nil || now.ResourceVersion != object.ResourceVersion {
		klog.FromContext(ctx).Info("Applied", "kind", kind.Kind, "name", name)
	}
	r.applied.states[key] = appliedState{hash, object.ResourceVersion}
	return nil
}

// remove deletes all objects of agents that are not desired.
func (r *reconciler) remove(ctx context.Context, existing existingObjects, wanted map[string]bool) error {
	for _, kind := range r.kinds {
		for name, object := range existing[kind] {
			if wanted[object.Labels[agentname.ObjectLabel]] || object.DeletionTimestamp != nil {
				continue
			}
			if err := r.delete(ctx, kind, object); err != nil {
				return err
			}
			klog.FromContext(ctx).Info("Removed", "kind", kind.Kind, "name", name)
		}
	}
	return nil
}

// delete deletes an object that still is the one that was listed.
func (r *reconciler) delete(ctx context.Context, kind schema.GroupVersionKind, object *metav1.PartialObjectMetadata) error {
	delete(r.applied.states, objectKey{kind, object.Name})
	object.SetGroupVersionKind(kind)
	err := r.client.Delete(ctx, object, client.Preconditions{UID: &object.UID}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", kind.Kind, object.Name, err)
	}
	return nil
}
