// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

// condition is the state of the token as callers see it: served if it has no
// reason. The message says what happened, to what, and what to do.
type condition struct {
	reason  agentv1.Reason
	message string
}

func (c condition) ready() bool { return c.reason == agentv1.Reason_REASON_UNSPECIFIED }

// passes tells that the condition may pass without a person's doing.
func (c condition) passes() bool {
	switch c.reason {
	case agentv1.Reason_REASON_TOKEN_ABSENT, agentv1.Reason_REASON_LOADING, agentv1.Reason_REASON_STATE_DIR:
		return true
	}
	return false
}

// err is nil when the token is served.
func (c condition) err() error {
	if c.ready() {
		return nil
	}
	return agentv1.NewError(codes.Unavailable, c.reason, "%s", c.message)
}

// conditionOf maps what went wrong at the token to what callers are told.
func conditionOf(err error) condition {
	switch token.ReasonOf(err) {
	case token.Blank:
		return condition{agentv1.Reason_REASON_TOKEN_BLANK, err.Error()}
	case token.Foreign:
		return condition{agentv1.Reason_REASON_TOKEN_FOREIGN, err.Error()}
	case token.Corrupt:
		return condition{agentv1.Reason_REASON_CORRUPT, err.Error()}
	case token.LogFailed:
		return condition{agentv1.Reason_REASON_STATE_DIR, fmt.Sprintf("%v; make room in the state directory, or make it writable", err)}
	}
	if errors.Is(err, pkcs11.ErrTokenAbsent) || errors.Is(err, pkcs11.ErrTokenAmbiguous) {
		return condition{agentv1.Reason_REASON_TOKEN_ABSENT, err.Error()}
	}
	var uninitialised uninitialisedError
	if errors.As(err, &uninitialised) {
		return condition{agentv1.Reason_REASON_TOKEN_UNINITIALIZED, err.Error()}
	}
	if c, ok := pinCondition(err); ok {
		return c
	}
	switch pkcs11.ClassOf(err) {
	case pkcs11.ClassReconnect:
		return condition{agentv1.Reason_REASON_TOKEN_ABSENT, fmt.Sprintf("the token does not answer (%v); the agent keeps trying to reach it", err)}
	case pkcs11.ClassPINRejected:
		return condition{agentv1.Reason_REASON_PIN_REJECTED, fmt.Sprintf("the token refused the PIN (%v); correct the PIN file", err)}
	case pkcs11.ClassPINLocked:
		return condition{agentv1.Reason_REASON_PIN_LOCKED, fmt.Sprintf("the token is locked (%v); unblock its PIN with the SO PIN", err)}
	}
	return condition{agentv1.Reason_REASON_LOADING, fmt.Sprintf("the token cannot be served yet (%v); the agent keeps trying", err)}
}

// lostError ends a connection whatever its cause is.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

// ifLost returns err if it means that the connection cannot be used any more.
func ifLost(err error) error {
	var lost lostError
	switch {
	case errors.As(err, &lost), token.ReasonOf(err) == token.Stale, token.ReasonOf(err) == token.OutcomeUnknown:
		return err
	case token.ReasonOf(err) != 0:
		return nil
	}
	switch pkcs11.ClassOf(err) {
	case pkcs11.ClassReconnect, pkcs11.ClassRelogin, pkcs11.ClassPINRejected, pkcs11.ClassPINLocked:
		return err
	}
	return nil
}

// isSuspicious tells that the token may not hold what it should, though it answers.
func isSuspicious(err error) bool {
	var ofToken *pkcs11.Error
	return token.ReasonOf(err) == token.Corrupt ||
		token.ReasonOf(err) == 0 && errors.As(err, &ofToken) && ofToken.Class() == pkcs11.ClassOther
}

// isRefusal tells that a commit was refused before the token was touched.
func isRefusal(err error) bool {
	var ofToken *pkcs11.Error
	switch token.ReasonOf(err) {
	case token.Full, token.TooLarge, token.LogFailed, token.Invalid, token.Internal:
		return true
	case 0:
		return !errors.As(err, &ofToken) // An error of nobody knows what.
	}
	return false
}

// requestError maps an error of one request to what its caller is told.
func requestError(err error) error {
	if err == nil {
		return nil
	}
	if _, mapped := status.FromError(err); mapped {
		return err
	}
	switch mvcc.ReasonOf(err) {
	case mvcc.Compacted:
		return agentv1.NewError(codes.OutOfRange, agentv1.Reason_REASON_EXPIRED, "%v", err)
	case mvcc.FutureRevision:
		return agentv1.NewError(codes.OutOfRange, agentv1.Reason_REASON_FUTURE_REVISION, "%v", err)
	}
	switch token.ReasonOf(err) {
	case token.Full:
		return agentv1.NewError(codes.ResourceExhausted, agentv1.Reason_REASON_FULL, "%v", err)
	case token.TooLarge:
		return agentv1.NewError(codes.OutOfRange, agentv1.Reason_REASON_TOO_LARGE, "%v", err)
	case token.Invalid:
		return invalidError("%v", err)
	case token.Internal, token.NotFound:
		return agentv1.NewError(codes.Internal, agentv1.Reason_REASON_UNSPECIFIED, "%v", err)
	}
	if ifLost(err) != nil || token.ReasonOf(err) == token.LogFailed {
		return conditionOf(err).err()
	}
	if token.ReasonOf(err) == 0 && isRefusal(err) {
		return invalidError("%v", err)
	}
	return agentv1.NewError(codes.DataLoss, agentv1.Reason_REASON_CORRUPT, "%v", err)
}
