// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
)

// requireSecretsOnCreate and requireSecretsOnUpdate refuse labels and annotations of the
// Secret from users who may not create such a Secret themselves: other controllers act by
// them. Then they call next.
func requireSecretsOnCreate(auth authorizer.Authorizer, next rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		if err := authorizeTemplate(ctx, auth, obj.(*hsm.HSMSecret), &hsm.HSMSecret{}); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		return next(ctx, obj)
	}
}

func requireSecretsOnUpdate(auth authorizer.Authorizer, next rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, obj, old runtime.Object) error {
		if err := authorizeTemplate(ctx, auth, obj.(*hsm.HSMSecret), old.(*hsm.HSMSecret)); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		return next(ctx, obj, old)
	}
}

func authorizeTemplate(ctx context.Context, auth authorizer.Authorizer, secret, old *hsm.HSMSecret) error {
	if secret.Spec.Template == nil || equality.Semantic.DeepEqual(secret.Spec.Template, old.Spec.Template) {
		return nil
	}
	allowed, reason, err := mayDo(ctx, auth, authorizer.AttributesRecord{
		Verb: "create", APIVersion: "v1", Resource: "secrets", Namespace: genericapirequest.NamespaceValue(ctx),
	})
	switch {
	case allowed:
		return nil
	case err != nil:
		return apierrors.NewInternalError(fmt.Errorf("authorize spec.template: %w", err))
	}
	detail := fmt.Sprintf("spec.template gives the projected Secret labels and annotations: leave it out, or ask for the verb create on secrets in namespace %q",
		secret.Namespace)
	if reason != "" {
		detail += " (" + reason + ")"
	}
	return apierrors.NewForbidden(hsm.Resource("hsmsecrets"), secret.Name, errors.New(detail))
}
