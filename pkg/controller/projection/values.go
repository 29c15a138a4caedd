// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// grantTime is how long the right to values must have been there before values that are
// all empty are trusted. API servers keep decisions for ten seconds
// (--authorization-webhook-cache-unauthorized-ttl).
const grantTime = 30 * time.Second

// errRightTooNew: the right to values may not be known to all API servers yet.
var errRightTooNew = errors.New("all values of the HSMSecret are shown as empty, and the right to see them was granted too recently to trust that; it is tried again")

// values makes sure that the API server has shown values. A caller without the verb get on
// hsmsecrets/data is shown keys with empty values: to project those would delete what
// workloads need.
type values struct {
	client client.Client
	clock  clock.PassiveClock

	mu     sync.Mutex
	denied time.Time // When the right was last missing, or may have been.
}

// areShown returns nil if the data of an HSMSecret is what the token holds.
func (v *values) areShown(ctx context.Context, h *v1alpha1.HSMSecret) error {
	if len(h.Data) == 0 {
		return nil
	}
	for _, value := range h.Data {
		if len(value) > 0 {
			return nil
		}
	}
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: h.Namespace, Verb: "get", Group: hsmSecretKind.Group, Version: hsmSecretKind.Version,
			Resource: "hsmsecrets", Subresource: "data", Name: h.Name,
		},
	}}
	if err := v.client.Create(ctx, review); err != nil {
		return fmt.Errorf("ask whether the controller may see values: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch now := v.clock.Now(); {
	case !review.Status.Allowed:
		v.denied = now
		return apierrors.NewForbidden(schema.GroupResource{Group: hsmSecretKind.Group, Resource: "hsmsecrets/data"}, h.Name,
			errors.New("the controller is shown no values: give its ServiceAccount the verb get on hsmsecrets/data"))
	case now.Before(v.denied.Add(grantTime)):
		return errRightTooNew
	}
	return nil
}
