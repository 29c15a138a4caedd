// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/utils/clock"
)

// retryAfter is when it makes sense to try again while no token can be reached: an
// agent that comes back has read its store by then.
const retryAfter = 5 * time.Second

// withRetryAfter adds a Retry-After to each 503, as a date. Of the two forms in
// RFC 9110, section 10.2.3, client-go obeys only the number of seconds: it repeats
// the request ten times before its user sees the error, and kubectl has to report an
// outage within 5 seconds. A Retry-After that is set already stays: a server that is
// shutting down sends its clients to another replica at once.
func withRetryAfter(next http.Handler, now clock.PassiveClock) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(responsewriter.WrapForHTTP1Or2(&retryAfterWriter{ResponseWriter: w, now: now}), r)
	})
}

type retryAfterWriter struct {
	http.ResponseWriter

	now clock.PassiveClock
}

var _ responsewriter.UserProvidedDecorator = (*retryAfterWriter)(nil)

// Unwrap implements responsewriter.UserProvidedDecorator.
func (w *retryAfterWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *retryAfterWriter) WriteHeader(code int) {
	if header := w.Header(); code == http.StatusServiceUnavailable && header.Get("Retry-After") == "" {
		header.Set("Retry-After", w.now.Now().Add(retryAfter).UTC().Format(http.TimeFormat))
	}
	w.ResponseWriter.WriteHeader(code)
}
