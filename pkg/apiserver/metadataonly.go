// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	hsmapi "j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/storage/records"
)

// withMetadataOnly marks the reads of HSMSecrets whose response is a Table or
// PartialObjectMetadata. Such a response shows no value, so none is read from the
// token. kubectl get, the garbage collector and the namespace controller send such
// reads.
func withMetadataOnly(next http.Handler, serializer runtime.NegotiatedSerializer) http.Handler {
	// The generic server negotiates with the same scope.
	scope := &handlers.RequestScope{
		TableConvertor:   rest.NewDefaultTableConvertor(hsmapi.Resource("hsmsecrets")),
		MetaGroupVersion: metav1.SchemeGroupVersion,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, ok := request.RequestInfoFrom(r.Context()); ok && isRead(info) && showsMetadataOnly(r, serializer, scope) {
			r = r.WithContext(records.WithoutData(r.Context()))
		}
		next.ServeHTTP(w, r)
	})
}

func isRead(info *request.RequestInfo) bool {
	if !info.IsResourceRequest || info.APIGroup != hsmapi.GroupName || info.Resource != "hsmsecrets" || info.Subresource != "" {
		return false
	}
	return info.Verb == "get" || info.Verb == "list" || info.Verb == "watch"
}

func showsMetadataOnly(r *http.Request, serializer runtime.NegotiatedSerializer, scope negotiation.EndpointRestrictions) bool {
	options, ok := negotiation.NegotiateMediaTypeOptions(r.Header.Get("Accept"), serializer.SupportedMediaTypes(), scope)
	if !ok || options.Convert == nil {
		return false
	}
	// includeObject=Object requests a Table with the whole objects.
	return options.Convert.Kind != "Table" || r.URL.Query().Get("includeObject") != string(metav1.IncludeObject)
}
