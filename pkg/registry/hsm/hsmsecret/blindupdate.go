// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
)

// blindUpdate is an update by a user who sees no values. Patch, apply and
// mutating admission work on an object without them, so no answer depends on a
// value. Then the values of the stored object are put back: an empty value of an
// existing key means: leave it as it is.
type blindUpdate struct {
	rest.UpdatedObjectInfo
	// ignoresData says that the strategy takes no data from the request anyway.
	ignoresData bool
}

// UpdatedObject implements rest.UpdatedObjectInfo. A creation is left alone: it
// is the user's own values that it brings.
func (u blindUpdate) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	stored := old.(*hsm.HSMSecret)
	if stored.ResourceVersion == "" {
		return u.UpdatedObjectInfo.UpdatedObject(ctx, old)
	}
	shown := stored.DeepCopy()
	hideValues(shown)
	obj, err := u.UpdatedObjectInfo.UpdatedObject(ctx, shown)
	if err != nil {
		return nil, err
	}
	secret := obj.(*hsm.HSMSecret)
	// If the object was read before another change, the store reports that conflict.
	isCurrent := secret.ResourceVersion == "" || secret.ResourceVersion == stored.ResourceVersion
	if isCurrent && !u.ignoresData {
		if err := refuseChange(secret.Data, stored); err != nil {
			return nil, err
		}
	}
	secret.Data = maps.Clone(stored.Data)
	return secret, nil
}

// refuseChange returns an error if data differs from what the server shows of it
// to a user without the right to values.
func refuseChange(data map[string][]byte, stored *hsm.HSMSecret) error {
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if _, ok := stored.Data[key]; !ok {
			return newValuesForbidden(stored, key, "added")
		}
		if len(data[key]) > 0 {
			return newValuesForbidden(stored, key, "changed")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(stored.Data)) {
		if _, ok := data[key]; !ok {
			return newValuesForbidden(stored, key, "dropped")
		}
	}
	return nil
}

func newValuesForbidden(secret *hsm.HSMSecret, key, change string) error {
	return apierrors.NewForbidden(hsm.Resource("hsmsecrets"), secret.Name, fmt.Errorf(
		"data[%s] would be %s, and you may not see values: send each key with an empty value, as the server shows it, or ask for the verb %s on hsmsecrets/%s in namespace %q",
		key, change, valuesVerb, valuesSubresource, secret.Namespace))
}
