// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

// withLastResponses tells a client over HTTP/1.1 which responses are the last ones
// on their connections, so that it sends nothing on a connection that is about to
// be closed: net/http repeats a request with a body on another connection only if
// it was given the body as a whole, and a proxy such as kube-apiserver has a stream.
//
// Last are all responses that begin when the server is told to stop, and every
// watch: one that is ended by a server that stops would leave its connection to
// the next request.
func withLastResponses(next http.Handler, stopping <-chan struct{}, resolver request.RequestInfoResolver) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 { // Connection is a header of HTTP/1.1.
			next.ServeHTTP(w, r)
			return
		}
		info, err := resolver.NewRequestInfo(r)
		watch := err == nil && info.IsResourceRequest && info.Verb == "watch"
		next.ServeHTTP(responsewriter.WrapForHTTP1Or2(&lastResponse{ResponseWriter: w, stopping: stopping, watch: watch}), r)
	})
}

// lastResponse decides as late as it can, when the response begins.
type lastResponse struct {
	http.ResponseWriter

	stopping <-chan struct{}
	watch    bool
	begun    bool
}

var _ responsewriter.UserProvidedDecorator = (*lastResponse)(nil)

// Unwrap implements responsewriter.UserProvidedDecorator.
func (w *lastResponse) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *lastResponse) WriteHeader(code int) {
	w.begin()
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *lastResponse) Write(data []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(data)
}

func (w *lastResponse) begin() {
	if w.begun {
		return
	}
	w.begun = true
	last := w.watch
	select {
	case <-w.stopping:
		last = true
	default:
	}
	if last {
		w.Header().Set("Connection", "close")
	}
}
