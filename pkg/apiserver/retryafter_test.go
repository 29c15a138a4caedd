// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := clocktesting.NewFakePassiveClock(time.Date(2026, 11, 24, 15, 0, 0, 0, time.UTC))
	for name, test := range map[string]struct {
		code         int
		before, want string
	}{
		"an outage":                     {code: http.StatusServiceUnavailable, want: "Tue, 24 Nov 2026 15:00:05 GMT"},
		"a server that is shut down":    {code: http.StatusServiceUnavailable, before: "1", want: "1"},
		"an answer":                     {code: http.StatusOK},
		"another failure of the server": {code: http.StatusInternalServerError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder := httptest.NewRecorder()
			withRetryAfter(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if test.before != "" {
					w.Header().Set("Retry-After", test.before)
				}
				w.WriteHeader(test.code)
			}), now).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
			if got := recorder.Header().Get("Retry-After"); got != test.want || recorder.Code != test.code {
				t.Errorf("got %d with Retry-After %q, want %q", recorder.Code, got, test.want)
			}
		})
	}
}
