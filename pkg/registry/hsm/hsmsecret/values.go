// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/warning"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/storage/records"
)

// The right to values is this verb on this subresource of hsmsecrets. Nothing is
// served there: it is a name for RBAC. Without the right a user gets the keys of
// data, with empty values, and cannot change data.
const (
	valuesVerb        = "get"
	valuesSubresource = "data"
)

// values decides who sees values, once for each request.
type values struct {
	authorizer authorizer.Authorizer
}

// hidden reports whether to hide the values of an object from the user; without a
// name, those of all objects in the request's namespace.
func (v values) hidden(ctx context.Context, name string) (bool, error) {
	allowed, _, err := may(ctx, v.authorizer, valuesVerb, valuesSubresource, name)
	if err != nil {
		return true, apierrors.NewInternalError(fmt.Errorf("authorize the reading of values: %w", err))
	}
	return !allowed, nil
}

// forRead returns the context to read in. Hidden values are not read from the
// token in the first place; a warning says so.
func (v values) forRead(ctx context.Context, name string) (context.Context, error) {
	if records.IsWithoutData(ctx) {
		return ctx, nil
	}
	hidden, err := v.hidden(ctx, name)
	if err != nil {
		return nil, err
	}
	if hidden {
		// Without it, people and backups would take the empty values for real ones.
		warning.AddWarning(ctx, "", "data: values are not shown; to see them, ask for the verb "+valuesVerb+" on hsmsecrets/"+valuesSubresource)
		ctx = records.WithoutData(ctx)
	}
	return ctx, nil
}

// selectedName is the one name that a selector leaves, or empty. RBAC, too,
// compares it with resourceNames.
func selectedName(options *metainternalversion.ListOptions) string {
	if options == nil || options.FieldSelector == nil {
		return ""
	}
	name, _ := options.FieldSelector.RequiresExactMatch("metadata.name")
	return name
}

// hideValues empties the values of what a write answers. It changes the object,
// but none of its maps.
func hideValues(obj runtime.Object) {
	switch obj := obj.(type) {
	case *hsm.HSMSecret:
		obj.Data = withoutValues(obj.Data)
	case *hsm.HSMSecretList:
		for i := range obj.Items {
			obj.Items[i].Data = withoutValues(obj.Items[i].Data)
		}
	}
}

func withoutValues(data map[string][]byte) map[string][]byte {
	if data == nil {
		return nil
	}
	keys := make(map[string][]byte, len(data))
	for key := range data {
		keys[key] = []byte{}
	}
	return keys
}
