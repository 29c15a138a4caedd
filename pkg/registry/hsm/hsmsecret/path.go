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
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
)

// claimVerb is the verb on hsmsecrets, with a path as resource name, that a user
// needs to use a path outside of secrets/<namespace>/.
const claimVerb = "claim"

// requireClaim returns a validation of creates. It refuses a path that the user
// may not claim, and then calls next. A path never changes, so updates need no
// claim.
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
	path := secret.Path()
	if strings.HasPrefix(path, hsm.PathPrefix(secret.Namespace)) {
		return nil
	}
	allowed, reason, err := may(ctx, auth, claimVerb, "", path)
	switch {
	case allowed:
		return nil
	case err != nil:
		return apierrors.NewInternalError(fmt.Errorf("authorize the claim of spec.hsmPath %q: %w", path, err))
	}
	detail := fmt.Sprintf("spec.hsmPath %q is not below %s: leave spec.hsmPath out, or ask for the verb %s on hsmsecrets with resource name %q in namespace %q",
		path, hsm.PathPrefix(secret.Namespace), claimVerb, path, secret.Namespace)
	if reason != "" {
		detail += " (" + reason + ")"
	}
	return apierrors.NewForbidden(hsm.Resource("hsmsecrets"), secret.Name, errors.New(detail))
}
