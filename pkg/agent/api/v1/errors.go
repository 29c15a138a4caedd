// SPDX-License-Identifier: Apache-2.0

package agentv1

import (
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// ErrorDomain is the domain of the google.rpc.ErrorInfo that carries a Reason.
	ErrorDomain = "hsm.j5t.io"

	reasonPrefix = "REASON_"
)

// NewError makes an error of the agent: its reason for programs, its message
// for people. The message says what happened, to what, and what to do.
func NewError(code codes.Code, reason Reason, format string, args ...any) error {
	s := status.New(code, fmt.Sprintf(format, args...))
	detailed, err := s.WithDetails(&errdetails.ErrorInfo{
		Reason: strings.TrimPrefix(reason.String(), reasonPrefix),
		Domain: ErrorDomain,
	})
	if err != nil {
		// Only of code OK, or of a detail that cannot be encoded.
		return s.Err()
	}
	return detailed.Err()
}

// ReasonOf is the reason that an error of the agent carries;
// REASON_UNSPECIFIED when it carries none, or one of a newer agent.
func ReasonOf(err error) Reason {
	// Also finds a status inside of a wrapped error.
	s, _ := status.FromError(err)
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == ErrorDomain {
			return Reason(Reason_value[reasonPrefix+info.GetReason()])
		}
	}
	return Reason_REASON_UNSPECIFIED
}
