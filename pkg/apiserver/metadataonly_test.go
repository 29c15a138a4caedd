// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/registry/hsm/hsmsecret"
	"j5t.io/hsm/pkg/storage/records"
)

// asked is a backend that only notes whether it was asked for values.
type asked struct {
	records.Backend
	withoutData bool
}

func (a *asked) Get(_ context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	a.withoutData = in.GetWithoutData()
	return &agentv1.GetResponse{Revision: 1}, nil
}

// TestMetadataOnly tells the requests that show no value from those that do: the
// first must not read one, the second must read them all.
func TestMetadataOnly(t *testing.T) {
	t.Parallel()
	const (
		kubectlGet = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
		metadata   = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
	)
	tests := []struct {
		name                  string
		accept, query         string
		verb, resource, subre string
		want                  bool
	}{
		{name: "kubectl get", accept: kubectlGet, want: true},
		{name: "kubectl get of one", accept: kubectlGet, verb: "get", want: true},
		{name: "kubectl get --watch", accept: kubectlGet, verb: "watch", want: true},
		{name: "metadata client", accept: metadata, want: true},
		{name: "metadata of one", accept: "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", verb: "get", want: true},
		{name: "Table of an old client", accept: "application/json;as=Table;v=v1beta1;g=meta.k8s.io", want: true},
		{name: "Table in YAML", accept: "application/yaml;as=Table;v=v1;g=meta.k8s.io", want: true},
		{name: "parameters in another order, with spaces", accept: "application/json; g=meta.k8s.io; v=v1; as=Table", want: true},
		{name: "Table with metadata", accept: kubectlGet, query: "?includeObject=Metadata", want: true},
		{name: "Table with objects", accept: kubectlGet, query: "?includeObject=Object"},
		{name: "whole objects preferred", accept: "application/json,application/json;as=Table;v=v1;g=meta.k8s.io"},
		{name: "Table less wanted", accept: "application/json;as=Table;v=v1;g=meta.k8s.io;q=0.5,application/json;q=0.9"},
		{name: "no header", accept: ""},
		{name: "anything", accept: "*/*"},
		{name: "JSON", accept: "application/json"},
		{name: "YAML", accept: "application/yaml"},
		{name: "protobuf", accept: "application/vnd.kubernetes.protobuf"},
		{name: "unknown transformation", accept: "application/json;as=Chair;v=v1;g=meta.k8s.io,application/json"},
		{name: "Table of another group", accept: "application/json;as=Table;v=v1;g=example.com,application/json"},
		{name: "update", accept: kubectlGet, verb: "update"},
		{name: "patch", accept: metadata, verb: "patch"},
		{name: "delete", accept: metadata, verb: "delete"},
		{name: "status", accept: kubectlGet, verb: "get", subre: "status"},
		{name: "other resource", accept: kubectlGet, resource: "hsmpools"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			info := &request.RequestInfo{IsResourceRequest: true, APIGroup: hsm.GroupName, Resource: "hsmsecrets", Verb: "list", Subresource: test.subre}
			if test.verb != "" {
				info.Verb = test.verb
			}
			if test.resource != "" {
				info.Resource = test.resource
			}
			backend := &asked{}
			store := records.New(backend, hsmsecret.NewLayout(Codecs.LegacyCodec(v1alpha1.SchemeGroupVersion)),
				hsm.Resource("hsmsecrets"), "/hsmsecrets", func() runtime.Object { return &hsm.HSMSecret{} })
			handler := withMetadataOnly(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if err := store.Get(r.Context(), "/hsmsecrets/a/b", storage.GetOptions{IgnoreNotFound: true}, &hsm.HSMSecret{}); err != nil {
					t.Error(err)
				}
			}), withoutProtobuf{Codecs})

			r := httptest.NewRequest(http.MethodGet, "/"+test.query, http.NoBody)
			r.Header.Set("Accept", test.accept)
			handler.ServeHTTP(httptest.NewRecorder(), r.WithContext(request.WithRequestInfo(r.Context(), info)))
			if backend.withoutData != test.want {
				t.Errorf("read without values: %t, want %t", backend.withoutData, test.want)
			}
		})
	}
}
