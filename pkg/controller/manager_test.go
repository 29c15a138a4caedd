// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/agents"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/pkg/controller/projection"
)

// The mapper asks no API server: it has to know all that the caches hold, and their
// lists, of which a cache of listed namespaces asks.
func TestMapperKnowsWhatIsCached(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	cached := map[client.Object]cache.ByObject{}
	for _, objects := range []map[client.Object]cache.ByObject{
		certs.Cached(&certs.Authorities{}), certs.Cached(&certs.CertManager{}), agents.Cached(agents.AccessDRA), projection.Cached(),
	} {
		maps.Copy(cached, objects)
	}
	mapper := newMapper()
	for object := range cached {
		gvk, err := apiutil.GVKForObject(object, scheme)
		if err != nil {
			t.Fatal(err)
		}
		mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			t.Error(err)
			continue
		}
		if mapping.Scope.Name() != "namespace" {
			continue
		}
		gvk.Kind += "List"
		if _, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version); err != nil {
			t.Error(err)
		}
	}
}
