// SPDX-License-Identifier: Apache-2.0

package mvcc

import (
	"errors"
	"fmt"
)

// Reason is the machine-readable cause of an error of this package.
type Reason int

const (
	// Compacted: the history does not reach back to the revision.
	Compacted Reason = iota + 1
	// FutureRevision: the revision has not happened yet.
	FutureRevision
	// Unreadable: data that the history keeps cannot be decrypted. The memory of
	// this process is not what it was: that is nobody's mistake but ours.
	Unreadable
)

// Reasons are all reasons that there are.
var Reasons = []Reason{Compacted, FutureRevision, Unreadable}

func (r Reason) String() string {
	switch r {
	case Compacted:
		return "Compacted"
	case FutureRevision:
		return "FutureRevision"
	case Unreadable:
		return "Unreadable"
	}
	return fmt.Sprintf("Reason(%d)", int(r))
}

// Error is an error with a reason.
type Error struct {
	Reason  Reason
	Message string
	Err     error // The cause; nil: none.
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf is the reason of the *Error in err's chain, 0 if it has none.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return 0
}

func compacted(revision, oldest uint64) error {
	return &Error{Reason: Compacted, Message: fmt.Sprintf(
		"revision %d is no longer in the history, which begins at %d; list anew", revision, oldest)}
}

func future(revision, last uint64) error {
	return &Error{Reason: FutureRevision, Message: fmt.Sprintf(
		"revision %d has not happened yet, the last one is %d; ask again later", revision, last)}
}
