// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"fmt"

	"j5t.io/hsm/pkg/pkcs11"
)

// Reason is the machine-readable cause of an error of this package.
type Reason int

const (
	// Blank: the token holds no store, and none was to be made.
	Blank Reason = iota + 1
	// Foreign: the token holds another store, or one that it has no key for.
	Foreign
	// Corrupt: something of ours is missing, or could not be authenticated.
	Corrupt
	// Full: the change does not fit on the token now. Nothing was touched.
	Full
	// TooLarge: the record is larger than the profile ever takes. Nothing was touched.
	TooLarge
	// OutcomeUnknown: the change may or may not have been made. Re-initialise the
	// module, open the store again, and ask Contains.
	OutcomeUnknown
	// Stale: an earlier error left open what the token holds. Nothing was
	// touched by this call; open the store again.
	Stale
	// LogFailed: the shadow could not be read or written. Nothing was touched.
	LogFailed
)

func (r Reason) String() string {
	switch r {
	case Blank:
		return "Blank"
	case Foreign:
		return "Foreign"
	case Corrupt:
		return "Corrupt"
	case Full:
		return "Full"
	case TooLarge:
		return "TooLarge"
	case OutcomeUnknown:
		return "OutcomeUnknown"
	case Stale:
		return "Stale"
	case LogFailed:
		return "LogFailed"
	}
	return fmt.Sprintf("Reason(%d)", int(r))
}

// Error is an error with a reason. Err, if there is one, is what the token said.
type Error struct {
	Reason  Reason
	Message string
	Err     error
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

func errorf(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// unreadable tells why the value of an object of ours could not be read. A
// token gives the same code for a broken object as for a dead device, so it is
// asked for something else: if it answers, it is the object that is broken.
func unreadable(dev Device, o pkcs11.Object, err error) error {
	if _, probe := dev.Random(1); probe == nil {
		return &Error{Reason: Corrupt, Message: fmt.Sprintf("object %q cannot be read although the token answers", o.Label), Err: err}
	}
	return fmt.Errorf("reading object %q: %w", o.Label, err)
}
