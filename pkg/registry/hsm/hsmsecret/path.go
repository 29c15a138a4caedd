// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// claimVerb is what a user must be allowed on hsmsecrets, by the name of a path,
// to use a path outside of the namespace's own.
const claimVerb = "claim"

// pathPrefix is of the paths which belong to a namespace.
func pathPrefix(namespace string) string {
	return "secrets/" + namespace + "/"
}

func defaultPath(secret *hsm.HSMSecret) string {
	return pathPrefix(secret.Namespace) + secret.Name
}

// requireClaim returns a validation of creates that refuses a path for which the
// user has no claim, and then does what next does. As a path cannot be changed,
// updates need none.
func requireClaim(auth authorizer.Authorizer, next rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		if err := authorizePath(ctx, auth, obj.(*hsm.HSMSecret)); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		return next(ctx, obj)
	}
}

func authorizePath(ctx context.Context, auth authorizer.Authorizer, secret *hsm.HSMSecret) error {
	path := secret.Spec.HSMPath
	if strings.HasPrefix(path, pathPrefix(secret.Namespace)) {
		return nil
	}
	user, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(errors.New("the request has no user"))
	}
	decision, reason, err := auth.Authorize(ctx, authorizer.AttributesRecord{
		User:            user,
		Verb:            claimVerb,
		Namespace:       secret.Namespace,
		APIGroup:        v1alpha1.SchemeGroupVersion.Group,
		APIVersion:      v1alpha1.SchemeGroupVersion.Version,
		Resource:        "hsmsecrets",
		Name:            path,
		ResourceRequest: true,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("deciding whether spec.hsmPath %q may be claimed: %w", path, err))
	}
	detail := fmt.Sprintf("spec.hsmPath %q is outside of %s: leave it out, or ask for the verb %s on hsmsecrets with resource name %q in namespace %q",
		path, pathPrefix(secret.Namespace), claimVerb, path, secret.Namespace)
	if reason != "" {
		detail += " (" + reason + ")"
	}
	return apierrors.NewForbidden(hsm.Resource("hsmsecrets"), secret.Name, errors.New(detail))
}
