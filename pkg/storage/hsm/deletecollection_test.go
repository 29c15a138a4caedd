// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"j5t.io/hsm/pkg/agent"
	hsmapi "j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/registry/hsm/hsmsecret"
	"j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/agenttest"
)

// restOptions stores every resource at the agents of a client.
type restOptions struct {
	client *hsm.Client
	codec  runtime.Codec
}

func (o restOptions) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return generic.RESTOptions{
		StorageConfig:           &storagebackend.ConfigForResource{GroupResource: resource, Config: storagebackend.Config{Codec: o.codec}},
		Decorator:               hsm.Decorator(o.client, hsmsecret.NewLayout),
		EnableGarbageCollection: true,
		ResourcePrefix:          resource.Group + "/" + resource.Resource,
	}, nil
}

// TestDeleteCollectionSharesCommits is law 6, on the limits of a Pico HSM: the
// deletion of a namespace must not write the flash once for each of its HSMSecrets.
func TestDeleteCollectionSharesCommits(t *testing.T) {
	const objects, mostPerObject = 300, 0.1
	profile, err := token.ProfileNamed("pico")
	if err != nil {
		t.Fatal(err)
	}
	a := agenttest.Start(t, func(o *agent.Options) { o.Profile = profile })
	scheme := runtime.NewScheme()
	install.Install(scheme)
	everybody := authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
		return authorizer.DecisionAllow, "", nil
	})
	codec := serializer.NewCodecFactory(scheme).LegacyCodec(v1alpha1.SchemeGroupVersion)
	secrets, _, err := hsmsecret.NewStorage(scheme, restOptions{newClient(t, a), codec}, everybody)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(secrets.Destroy)
	ctx := genericapirequest.WithUser(genericapirequest.WithNamespace(t.Context(), "prod"), &user.DefaultInfo{Name: "someone"})
	ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{APIGroup: hsmapi.GroupName, APIVersion: v1alpha1.SchemeGroupVersion.Version})

	var creates errgroup.Group
	for i := range objects {
		s := newSecret()
		s.ObjectMeta = metav1.ObjectMeta{Name: fmt.Sprintf("db-%03d", i), Namespace: "prod"}
		s.Spec.HSMPath, s.Spec.SecretName = "secrets/prod/"+s.Name, s.Name
		creates.Go(func() error {
			_, err := secrets.Create(ctx, s, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
			return err
		})
	}
	if err := creates.Wait(); err != nil {
		t.Fatal(err)
	}

	before := a.Calls().Creates
	deleted, err := secrets.DeleteCollection(ctx, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(deleted.(*hsmapi.HSMSecretList).Items); got != objects {
		t.Errorf("%d HSMSecrets were deleted, want %d", got, objects)
	}
	perObject := float64(a.Calls().Creates-before) / objects
	fmt.Printf("figure: deletecollection-creates-per-object %.3f\n", perObject)
	if perObject > mostPerObject {
		t.Errorf("%.3f objects were created on the token for each deletion, want at most %v", perObject, mostPerObject)
	}
}
