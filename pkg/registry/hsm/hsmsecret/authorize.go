// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"errors"

	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// may reports whether the user of a request has a right on hsmsecrets, or on a
// subresource of them, in the namespace of the request. Without a name it is a
// right on all names. The reason says why it is refused.
func may(ctx context.Context, auth authorizer.Authorizer, verb, subresource, name string) (allowed bool, reason string, err error) {
	return mayDo(ctx, auth, authorizer.AttributesRecord{
		Verb:        verb,
		Namespace:   genericapirequest.NamespaceValue(ctx),
		APIGroup:    v1alpha1.SchemeGroupVersion.Group,
		APIVersion:  v1alpha1.SchemeGroupVersion.Version,
		Resource:    "hsmsecrets",
		Subresource: subresource,
		Name:        name,
	})
}

// mayDo reports whether the user of a request has a right on a resource.
func mayDo(ctx context.Context, auth authorizer.Authorizer, what authorizer.AttributesRecord) (allowed bool, reason string, err error) {
	user, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return false, "", errors.New("the request has no user")
	}
	what.User, what.ResourceRequest = user, true
	decision, reason, err := auth.Authorize(ctx, what)
	if decision == authorizer.DecisionAllow {
		// As in k8s.io/apiserver, an error of another authorizer does not matter.
		return true, "", nil
	}
	return false, reason, err
}
