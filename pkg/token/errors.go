// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"fmt"

	"j5t.io/hsm/pkg/pkcs11"
)

// Reason is the machine-readable cause of an error of this package, and has one
// meaning. An error without a reason is the device's own: pkcs11.ClassOf says what
// it means. One that an Adoption's functions returned is passed on as it is.
type Reason int

const (
	// Blank: the token holds no store, and none was to be made. Nothing was touched.
	Blank Reason = iota + 1
	// Foreign: the token holds another store, or one that it has no key for. Nothing
	// was touched.
	Foreign
	// Corrupt: something of ours is missing, or could not be authenticated. Nothing
	// was touched.
	Corrupt
	// Invalid: the caller asked for what no store can do, as a record with an empty
	// key. Nothing was touched; asking again is of no use.
	Invalid
	// NotFound: the store holds no record of this key.
	NotFound
	// Full: the change does not fit on the token now. Nothing was touched, unless the
	// token refused what its profile allows; then the change was not made either.
	Full
	// TooLarge: the record is larger than the profile ever takes. As Full.
	TooLarge
	// LogFailed: the write-ahead log could not be read or written. The token was not
	// touched.
	LogFailed
	// OutcomeUnknown: the change may or may not have been made. Re-initialise the
	// module, open the store again, and ask Contains.
	OutcomeUnknown
	// Stale: an earlier error left open what the token holds. Nothing was
	// touched by this call; open the store again.
	Stale
	// Internal: this program is wrong, as when a revision is given twice. Nothing was
	// touched.
	Internal

	endOfReasons
)

// Reasons are all reasons, for a table that has a row for each.
func Reasons() []Reason {
	all := make([]Reason, 0, endOfReasons-1)
	for r := Blank; r < endOfReasons; r++ {
		all = append(all, r)
	}
	return all
}

var reasonNames = [endOfReasons]string{
	Blank: "Blank", Foreign: "Foreign", Corrupt: "Corrupt", Invalid: "Invalid", NotFound: "NotFound", Full: "Full", TooLarge: "TooLarge",
	LogFailed: "LogFailed", OutcomeUnknown: "OutcomeUnknown", Stale: "Stale", Internal: "Internal",
}

func (r Reason) String() string {
	if r < Blank || r >= endOfReasons {
		return fmt.Sprintf("Reason(%d)", int(r))
	}
	return reasonNames[r]
}

// HousekeepingError is an error of CollectGarbage, Compact or Scrub. No request
// asked for the work, so none is refused for it: unless the token is lost (by the
// reason or the class of Err), reads and writes go on, and it is done later.
type HousekeepingError struct {
	Task string // "collecting garbage", "compacting", "scrubbing"
	Err  error
}

func (e *HousekeepingError) Error() string { return e.Task + ": " + e.Err.Error() }

func (e *HousekeepingError) Unwrap() error { return e.Err }

// housekeeping names the task that an error is of; nil stays nil.
func housekeeping(task string, err error) error {
	if err == nil {
		return nil
	}
	return &HousekeepingError{task, err}
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

// orInternal gives an error that is not the device's, and has no reason yet, the
// reason Internal.
func orInternal(err error, message string) error {
	switch {
	case err == nil:
		return nil
	case ReasonOf(err) != 0 || pkcs11.ClassOf(err) != pkcs11.ClassNone:
		return fmt.Errorf("%s: %w", message, err)
	}
	return &Error{Reason: Internal, Message: message, Err: err}
}

func errorf(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// answers reports whether a call reaches the token. An error of it may be about a single
// object, and a module may answer from memory; random bytes come from the token alone.
func answers(dev Device) bool {
	_, err := dev.Random(1)
	return err == nil
}

// unreadable says why the value of an object of ours could not be read. A
// token gives the same code for a broken object as for a dead device, so it is
// asked for something else: if it answers, it is the object that is broken.
func unreadable(dev Device, o pkcs11.Object, err error) error {
	if answers(dev) {
		return &Error{Reason: Corrupt, Message: fmt.Sprintf("object %q cannot be read although the token answers", o.Label), Err: err}
	}
	return fmt.Errorf("reading object %q: %w", o.Label, err)
}

func corruptObject(label string, err error) error {
	return &Error{Reason: Corrupt, Message: fmt.Sprintf("object %q is not what was written. Nothing was changed; restore it from the write-ahead log or a mirror", label), Err: err}
}
