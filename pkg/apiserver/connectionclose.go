// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

// withConnectionClose closes the connections of HTTP/1.1 clients gracefully: the last
// response on a connection carries "Connection: close", so the client sends nothing
// on a connection that is about to be closed. A request with a body that did would be
// lost: net/http repeats it on another connection only if it has the whole body, and
// a proxy such as kube-apiserver has a stream.
//
// The last responses are those that begin after the server was told to stop, and all
// watches: a server that stops ends them, and the client would send its next request
// on their connections.
func withConnectionClose(next http.Handler, stopping <-chan struct{}, resolver request.RequestInfoResolver) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 { // Connection is a header of HTTP/1.1.
			next.ServeHTTP(w, r)
			return
		}
		info, err := resolver.NewRequestInfo(r)
		watch := err == nil && info.IsResourceRequest && info.Verb == "watch"
		next.ServeHTTP(responsewriter.WrapForHTTP1Or2(&connectionCloser{ResponseWriter: w, stopping: stopping, watch: watch}), r)
	})
}

// connectionCloser decides as late as possible, when the response begins.
type connectionCloser struct {
	http.ResponseWriter

	stopping <-chan struct{}
	watch    bool
	begun    bool
}

var _ responsewriter.UserProvidedDecorator = (*connectionCloser)(nil)

// Unwrap implements responsewriter.UserProvidedDecorator.
func (w *connectionCloser) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *connectionCloser) WriteHeader(code int) {
	w.begin()
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *connectionCloser) Write(data []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(data)
}

func (w *connectionCloser) begin() {
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
