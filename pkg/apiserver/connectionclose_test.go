// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	genericapiserver "k8s.io/apiserver/pkg/server"
)

// TestConnectionClose: a response says that its connection is closed when it is, and
// only then.
func TestConnectionClose(t *testing.T) {
	t.Parallel()
	const objects = "/apis/hsm.j5t.io/v1alpha1/hsmsecrets"
	resolver := genericapiserver.NewRequestInfoResolver(genericapiserver.NewConfig(Codecs))
	for name, test := range map[string]struct {
		path   string
		before bool // The server is told to stop before the request.
		during bool // It is while the request is served.
		http2  bool
		want   string
	}{
		"a request":                                 {path: objects},
		"a request to a server that stops":          {path: objects, before: true, want: "close"},
		"a request that is under way when it stops": {path: objects, during: true, want: "close"},
		"a probe of a server that stops":            {path: "/readyz", before: true, want: "close"},
		"a watch":                                   {path: objects + "?watch=true", want: "close"},
		"HTTP/2, which has GOAWAY":                  {path: objects + "?watch=true", before: true, http2: true},
	} {
		for how, respond := range map[string]func(http.ResponseWriter){
			"with a status":    func(w http.ResponseWriter) { w.WriteHeader(http.StatusCreated) },
			"without a status": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{}") },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				stopping := make(chan struct{})
				if test.before {
					close(stopping)
				}
				request := httptest.NewRequest(http.MethodGet, test.path, nil)
				if test.http2 {
					request.ProtoMajor, request.ProtoMinor = 2, 0
				}
				recorder := httptest.NewRecorder()
				withConnectionClose(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					if test.during {
						close(stopping)
					}
					respond(w)
				}), stopping, resolver).ServeHTTP(recorder, request)
				if got := recorder.Result().Header.Get("Connection"); got != test.want {
					t.Errorf("Connection is %q, want %q", got, test.want)
				}
			})
		}
	}
}
