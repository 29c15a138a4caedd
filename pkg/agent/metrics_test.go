// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.commit(put("key", 0, "value"))
	h.get("key")
	figures := func() string {
		recorder := httptest.NewRecorder()
		h.Metrics().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return recorder.Body.String()
	}
	expect := func(figures string, lines ...string) {
		t.Helper()
		for _, line := range lines {
			if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(figures) {
				t.Errorf("no line %s in\n%s", line, figures)
			}
		}
	}
	got := figures()
	expect(got,
		`hsm_token_served\{reason="OK"\} 1`,
		`hsm_token_pin_state\{state="ACCEPTED"\} 1`,
		`hsm_store_records 1`,
		`hsm_token_objects\{kind="store"\} 2`, // The keyring, and a segment.
		`hsm_token_objects\{kind="foreign"\} 0`,
		`hsm_token_objects\{kind="quarantined"\} 0`,
		`hsm_token_objects\{kind="free"\} [1-9].*`,
		`hsm_token_bytes\{kind="store"\} [1-9].*`,
		`hsm_token_last_scrub_timestamp_seconds [1-9].*`,
		`hsm_token_work_duration_seconds_count\{work="reading"\} 1`,
		`hsm_token_work_duration_seconds_count\{work="committing"\} 1`,
		`hsm_token_work_duration_seconds_count\{work="opening_the_store"\} 1`,
		`hsm_token_calls_total\{function="C_[A-Za-z]*"\} \d+`,
	)
	if strings.Contains(got, "key\"") || strings.Contains(got, "value\"") {
		t.Error("a metric names a record")
	}

	h.module.pull()
	h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
	expect(figures(), `hsm_token_served\{reason="TOKEN_ABSENT"\} 0`, `hsm_store_records 1`)
}
