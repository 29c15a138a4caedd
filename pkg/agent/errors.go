// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// addressInUseError does not name the other record: the caller may have no
// right to know of it.
func addressInUseError(address string) error {
	return agentv1.NewError(codes.AlreadyExists, agentv1.Reason_REASON_ADDRESS_IN_USE,
		"address %q belongs to another record of this token; choose another one", address)
}

func outcomeUnknownError(cause error) error {
	return agentv1.NewError(codes.Unknown, agentv1.Reason_REASON_OUTCOME_UNKNOWN,
		"the change may or may not have been made (%v); read the record to find out", cause)
}

func invalidError(format string, args ...any) error {
	return agentv1.NewError(codes.InvalidArgument, agentv1.Reason_REASON_UNSPECIFIED, format, args...)
}

// notBegunError is of a request that gave up while it waited for the token.
func notBegunError(ctx context.Context) error {
	code := codes.Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = codes.DeadlineExceeded
	}
	return agentv1.NewError(code, agentv1.Reason_REASON_UNSPECIFIED,
		"the token was busy until the request's deadline; the request was not begun and nothing was changed")
}
