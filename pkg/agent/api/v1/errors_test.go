// SPDX-License-Identifier: Apache-2.0

package agentv1_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

func TestEveryReasonSurvivesTheWire(t *testing.T) {
	t.Parallel()
	for number := range agentv1.Reason_name {
		reason := agentv1.Reason(number)
		err := agentv1.NewError(codes.Unavailable, reason, "token %s", "x")
		// What a client receives is made from the encoded status.
		received := fmt.Errorf("get record: %w", status.FromProto(status.Convert(err).Proto()).Err())
		if got := agentv1.ReasonOf(received); got != reason {
			t.Errorf("reason is %s, want %s", got, reason)
		}
	}
}

func TestErrorsWithoutAReason(t *testing.T) {
	t.Parallel()
	foreign, err := status.New(codes.Unavailable, "x").WithDetails(&errdetails.ErrorInfo{Reason: "FULL", Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	newer, err := status.New(codes.Unavailable, "x").WithDetails(&errdetails.ErrorInfo{Reason: "NEWER", Domain: agentv1.ErrorDomain})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{nil, errors.New("x"), context.Canceled, status.Error(codes.Unavailable, "x"), foreign.Err(), newer.Err()} {
		if got := agentv1.ReasonOf(err); got != agentv1.Reason_REASON_UNSPECIFIED {
			t.Errorf("reason of %v is %s", err, got)
		}
	}
}
