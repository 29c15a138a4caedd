// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"iter"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/pinlatch"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

// written is what a commit that failed has left.
type written int

const (
	// writtenNothing: the change was not made, and the store goes on as it was.
	writtenNothing written = iota
	// writtenNotMade: the change was not made, but the store has to be opened again
	// before anything else is asked of it.
	writtenNotMade
	// writtenUnknown: the change may or may not have been made. The store has to be
	// opened again, and then tells.
	writtenUnknown
)

// meaning is what an error from below means to the agent and its callers.
type meaning struct {
	// condition is why the store is not served when it could not be opened, or was
	// lost, for this error. Unspecified: what has caused the error tells.
	condition agentv1.Reason
	// conditionText is the condition's message, with the error at %v; empty: the error alone.
	conditionText string

	// code and reason are what the caller of one request is told, unless the session
	// is lost: then it is the condition. requestText is as conditionText.
	code        codes.Code
	reason      agentv1.Reason
	requestText string

	// lost: the session cannot be used any more.
	lost bool
	// suspicious: the token may not hold what it should, though it answers.
	suspicious bool
	// written is what a commit has left that failed so.
	written written
}

// Causes that have neither a token.Reason, a pkcs11.Class, a mvcc.Reason nor a
// pinlatch.Reason.
type cause string

const (
	// Housekeeping failed. Whether the session is lost with it, its own cause tells;
	// if not, nobody is refused anything for it (housekeeping.go).
	causeHousekeeping cause = "housekeeping"
	// A token without a user PIN was not initialised.
	causeUninitialised cause = "uninitialised"
	// A PIN file has become unreadable.
	causePINFile cause = "PIN file"
)

const (
	notServedYet = "the token cannot be served yet (%v); the agent keeps trying"
	ourFault     = "nothing was changed; this is a fault of the agent and not of the request, please report it: %v"
)

// meanings is the one place where an error from below gets its meaning. Its keys are
// of the types token.Reason, pkcs11.Class, mvcc.Reason, pinlatch.Reason and cause.
var meanings = map[any]meaning{
	// The store.
	token.Blank:   {condition: agentv1.Reason_REASON_TOKEN_BLANK, lost: true, written: writtenNotMade},
	token.Foreign: {condition: agentv1.Reason_REASON_TOKEN_FOREIGN, lost: true, written: writtenNotMade},
	token.Corrupt: {condition: agentv1.Reason_REASON_CORRUPT,
		code: codes.DataLoss, reason: agentv1.Reason_REASON_CORRUPT, suspicious: true},
	token.Invalid: {code: codes.InvalidArgument},
	// The index has a record that the store has not.
	token.NotFound: {code: codes.Internal, requestText: ourFault, suspicious: true},
	token.Full:     {code: codes.ResourceExhausted, reason: agentv1.Reason_REASON_FULL},
	token.TooLarge: {code: codes.OutOfRange, reason: agentv1.Reason_REASON_TOO_LARGE},
	token.LogFailed: {condition: agentv1.Reason_REASON_STATE_DIR, conditionText: "%v; make room in the state directory, or make it writable",
		code: codes.Unavailable, reason: agentv1.Reason_REASON_STATE_DIR, requestText: "%v; make room in the state directory, or make it writable"},
	token.OutcomeUnknown: {lost: true, written: writtenUnknown},
	token.Stale:          {lost: true, written: writtenNotMade},
	token.Internal:       {code: codes.Internal, requestText: ourFault},

	// The device. A commit that failed for it was not made.
	pkcs11.ClassOther: {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet,
		code: codes.DataLoss, reason: agentv1.Reason_REASON_CORRUPT, suspicious: true, written: writtenNotMade},
	pkcs11.ClassReconnect: {condition: agentv1.Reason_REASON_TOKEN_ABSENT, conditionText: "the token does not answer (%v); the agent keeps trying to reach it",
		lost: true, written: writtenNotMade},
	pkcs11.ClassRelogin: {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet, lost: true, written: writtenNotMade},
	pkcs11.ClassPINRejected: {condition: agentv1.Reason_REASON_PIN_REJECTED, conditionText: "the token refused the PIN (%v); correct the PIN file",
		lost: true, written: writtenNotMade},
	pkcs11.ClassPINLocked: {condition: agentv1.Reason_REASON_PIN_LOCKED, conditionText: "the token is locked (%v); unblock its PIN with the SO PIN",
		lost: true, written: writtenNotMade},
	pkcs11.ClassPINUnfit: {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet, code: codes.Internal, requestText: ourFault, written: writtenNotMade},
	pkcs11.ClassFull: {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet,
		code: codes.ResourceExhausted, reason: agentv1.Reason_REASON_FULL, written: writtenNotMade},
	pkcs11.ClassTooLarge: {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet,
		code: codes.OutOfRange, reason: agentv1.Reason_REASON_TOO_LARGE, written: writtenNotMade},
	pkcs11.ClassTokenAbsent:    {condition: agentv1.Reason_REASON_TOKEN_ABSENT, lost: true, written: writtenNotMade},
	pkcs11.ClassTokenAmbiguous: {condition: agentv1.Reason_REASON_TOKEN_ABSENT, lost: true, written: writtenNotMade},
	pkcs11.ClassNotBlank:       {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet, lost: true, written: writtenNotMade},
	pkcs11.ClassInvalid:        {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet, code: codes.Internal, requestText: ourFault, written: writtenNotMade},
	pkcs11.ClassMalformed: {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet,
		code: codes.DataLoss, reason: agentv1.Reason_REASON_CORRUPT, suspicious: true, written: writtenNotMade},
	pkcs11.ClassModule: {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet, lost: true, written: writtenNotMade},
	// No layer below says what it is: it may be anything, and nothing is claimed of it.
	pkcs11.ClassNone: {condition: agentv1.Reason_REASON_LOADING, conditionText: notServedYet, code: codes.Internal, requestText: ourFault, written: writtenUnknown},

	// The history in the agent's memory.
	mvcc.Compacted:      {code: codes.OutOfRange, reason: agentv1.Reason_REASON_EXPIRED},
	mvcc.FutureRevision: {code: codes.OutOfRange, reason: agentv1.Reason_REASON_FUTURE_REVISION},
	mvcc.Unreadable:     {code: codes.Internal, requestText: ourFault},

	// The PIN. Without one, no session is of use.
	pinlatch.ReasonRejected:       {condition: agentv1.Reason_REASON_PIN_REJECTED, lost: true, written: writtenNotMade},
	pinlatch.ReasonOutcomeUnknown: {condition: agentv1.Reason_REASON_PIN_REJECTED, lost: true, written: writtenNotMade},
	pinlatch.ReasonCountLow:       {condition: agentv1.Reason_REASON_PIN_REJECTED, lost: true, written: writtenNotMade},
	pinlatch.ReasonFinalTry:       {condition: agentv1.Reason_REASON_PIN_LOCKED, lost: true, written: writtenNotMade},
	pinlatch.ReasonLocked:         {condition: agentv1.Reason_REASON_PIN_LOCKED, lost: true, written: writtenNotMade},
	causePINFile:                  {condition: agentv1.Reason_REASON_PIN_REJECTED, conditionText: "no PIN can be sent: %v", lost: true, written: writtenNotMade},
	causeUninitialised:            {condition: agentv1.Reason_REASON_TOKEN_UNINITIALIZED, lost: true, written: writtenNotMade},

	// What nobody has asked for.
	causeHousekeeping: {code: codes.Internal},
}

// meaningOf is the row of what an error says first, of the outermost to the innermost.
func meaningOf(err error) meaning {
	for c := range causesOf(err) {
		return meanings[c]
	}
	return meanings[pkcs11.ClassNone]
}

// causesOf yields the keys of all rows that an error's chain names, the outermost first.
func causesOf(err error) iter.Seq[any] {
	return func(yield func(any) bool) { walkCauses(err, yield) }
}

func walkCauses(err error, yield func(any) bool) bool {
	var key any
	switch e := err.(type) { //nolint:errorlint // This is the walk down the chain.
	case nil:
		return true
	case *token.HousekeepingError:
		key = causeHousekeeping
	case *token.Error:
		key = e.Reason
	case *mvcc.Error:
		key = e.Reason
	case *pinlatch.RefusedError:
		key = e.Reason
	case uninitialisedError:
		key = causeUninitialised
	case pinFileError:
		key = causePINFile
	case interface{ Class() pkcs11.Class }:
		key = e.Class()
	}
	if key != nil && !yield(key) {
		return false
	}
	switch e := err.(type) { //nolint:errorlint // The same.
	case interface{ Unwrap() error }:
		return walkCauses(e.Unwrap(), yield)
	case interface{ Unwrap() []error }:
		for _, joined := range e.Unwrap() {
			if !walkCauses(joined, yield) {
				return false
			}
		}
	}
	return true
}

// conditionOf is what callers are told while the store is not served for an error.
func conditionOf(err error) condition {
	row := meanings[pkcs11.ClassNone]
	for c := range causesOf(err) {
		if meanings[c].condition != agentv1.Reason_REASON_UNSPECIFIED {
			row = meanings[c]
			break
		}
	}
	return condition{row.condition, say(row.conditionText, err)}
}

// lostError ends a session whatever its cause is.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

// ifLost returns err if it means that the session cannot be used any more.
func ifLost(err error) error {
	if err == nil {
		return nil
	}
	var lost lostError
	if errors.As(err, &lost) || meaningOf(err).lost {
		return err
	}
	return nil
}

// requestError maps an error of one request to what its caller is told.
func requestError(err error) error {
	if err == nil {
		return nil
	}
	if _, mapped := status.FromError(err); mapped {
		return err
	}
	if ifLost(err) != nil {
		return conditionOf(err).err()
	}
	row := meaningOf(err)
	return agentv1.NewError(row.code, row.reason, "%s", say(row.requestText, err))
}

func say(format string, err error) string {
	if format == "" {
		return err.Error()
	}
	return fmt.Sprintf(format, err)
}
