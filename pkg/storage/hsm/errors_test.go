// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

// TestReasons has a row for every reason of the protocol.
func TestReasons(t *testing.T) {
	t.Parallel()
	type want struct {
		code   int32 // 0: one of package records.
		reason metav1.StatusReason
		is     error
	}
	unavailable := want{code: http.StatusServiceUnavailable, reason: metav1.StatusReasonServiceUnavailable}
	for reason, want := range map[agentv1.Reason]want{
		agentv1.Reason_REASON_UNSPECIFIED:         {code: http.StatusInternalServerError, reason: metav1.StatusReasonInternalError},
		agentv1.Reason_REASON_TOKEN_ABSENT:        unavailable,
		agentv1.Reason_REASON_TOKEN_BLANK:         unavailable,
		agentv1.Reason_REASON_TOKEN_UNINITIALIZED: unavailable,
		agentv1.Reason_REASON_TOKEN_FOREIGN:       unavailable,
		agentv1.Reason_REASON_PIN_REJECTED:        unavailable,
		agentv1.Reason_REASON_PIN_LOCKED:          unavailable,
		agentv1.Reason_REASON_CORRUPT:             unavailable,
		agentv1.Reason_REASON_LOADING:             unavailable,
		agentv1.Reason_REASON_FENCED:              unavailable,
		agentv1.Reason_REASON_FULL:                {code: http.StatusInsufficientStorage, reason: StatusReasonInsufficientStorage},
		agentv1.Reason_REASON_TOO_LARGE:           {code: http.StatusRequestEntityTooLarge, reason: metav1.StatusReasonRequestEntityTooLarge},
		agentv1.Reason_REASON_OUTCOME_UNKNOWN:     {code: http.StatusGatewayTimeout, reason: metav1.StatusReasonTimeout},
		agentv1.Reason_REASON_ADDRESS_IN_USE:      {is: records.ErrAddressInUse},
		agentv1.Reason_REASON_EXPIRED:             {is: records.ErrExpired},
		agentv1.Reason_REASON_FUTURE_REVISION:     {is: records.ErrFutureRevision},
	} {
		for _, kind := range []kind{notSent, isRead, isChange} {
			// The code of gRPC must not matter.
			err := apiError("pico:9443", agentv1.NewError(codes.Aborted, reason, "12 of 96 slots are free"), kind)
			if want.is != nil {
				if !errors.Is(err, want.is) {
					t.Errorf("%s: %v", reason, err)
				}
				continue
			}
			checkStatus(t, reason.String(), err, want.code, want.reason, "12 of 96 slots are free")
			if want == unavailable && !apierrors.HasStatusCause(err, metav1.CauseType(strings.TrimPrefix(reason.String(), "REASON_"))) {
				t.Errorf("%s: programs cannot tell why", reason)
			}
		}
	}
	for value := range agentv1.Reason_name {
		reason := agentv1.Reason(value)
		err := apiError("pico:9443", agentv1.NewError(codes.Aborted, reason, "x"), isRead)
		if reason != agentv1.Reason_REASON_UNSPECIFIED && apierrors.IsInternalError(err) {
			t.Errorf("%s is mapped to nothing", reason)
		}
	}
}

func TestErrorsWithoutReason(t *testing.T) {
	t.Parallel()
	const unknownOutcome = "may or may not have been made"
	said := func(code codes.Code) error {
		return agentv1.NewError(code, agentv1.Reason_REASON_UNSPECIFIED, "nothing was changed")
	}
	for _, c := range []struct {
		name   string
		err    error
		kind   kind
		code   int32
		reason metav1.StatusReason
		text   string
	}{
		{"no connection", status.Error(codes.Unavailable, "refused"), notSent, 503, metav1.StatusReasonServiceUnavailable, "check that the agent runs"},
		{"lost while reading", status.Error(codes.Unavailable, "EOF"), isRead, 503, metav1.StatusReasonServiceUnavailable, "check that the agent runs"},
		{"lost while writing", status.Error(codes.Unavailable, "EOF"), isChange, 504, metav1.StatusReasonTimeout, unknownOutcome},
		{"silent while reading", errSilent, isRead, 503, metav1.StatusReasonServiceUnavailable, "does not answer"},
		{"silent while writing", errSilent, isChange, 504, metav1.StatusReasonTimeout, unknownOutcome},
		{"silent at once", errSilent, notSent, 503, metav1.StatusReasonServiceUnavailable, "does not answer"},
		{"deadline of a read", status.FromContextError(context.DeadlineExceeded).Err(), isRead, 504, metav1.StatusReasonTimeout, "deadline"},
		{"deadline of a write", status.FromContextError(context.DeadlineExceeded).Err(), isChange, 504, metav1.StatusReasonTimeout, unknownOutcome},
		{"deadline before a write", status.FromContextError(context.DeadlineExceeded).Err(), notSent, 504, metav1.StatusReasonTimeout, "deadline"},
		{"the agent gave up", said(codes.DeadlineExceeded), isChange, 504, metav1.StatusReasonTimeout, "nothing was changed"},
		{"the agent refuses", said(codes.InvalidArgument), isChange, 400, metav1.StatusReasonBadRequest, "nothing was changed"},
		{"unexpected", status.Error(codes.Unimplemented, "what?"), isRead, 500, metav1.StatusReasonInternalError, "what?"},
	} {
		err := apiError("pico:9443", c.err, c.kind)
		checkStatus(t, c.name, err, c.code, c.reason, c.text)
		if c.code == http.StatusServiceUnavailable && !apierrors.HasStatusCause(err, CauseAgentUnreachable) {
			t.Errorf("%s: programs cannot tell why", c.name)
		}
	}
	if err := apiError("pico:9443", nil, isChange); err != nil {
		t.Errorf("of no error: %v", err)
	}
}

func checkStatus(t *testing.T, name string, err error, code int32, reason metav1.StatusReason, text string) {
	t.Helper()
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		t.Errorf("%s: not a status: %v", name, err)
		return
	}
	got := s.Status()
	if got.Code != code || got.Reason != reason {
		t.Errorf("%s: %d %s, want %d %s", name, got.Code, got.Reason, code, reason)
	}
	if !strings.Contains(got.Message, text) || !strings.Contains(got.Message, "pico:9443") {
		t.Errorf("%s: the message does not say which agent, or %q: %s", name, text, got.Message)
	}
	if got.Details != nil && got.Details.RetryAfterSeconds != 0 {
		t.Errorf("%s: clients would retry %d s later, ten times", name, got.Details.RetryAfterSeconds)
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"system:serviceaccount:ns:name": "system:serviceaccount:ns:name",
		"jörg":                          "j%C3%B6rg",
		"a b\n":                         "a%20b%0A",
		"100%":                          "100%25",
		"":                              "",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
