// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Return codes (CKR_*) that this project tells apart; PKCS#11 v2.40 section 5.1.
const (
	CKRSlotIDInvalid              uint = pkcs11.CKR_SLOT_ID_INVALID
	CKRGeneralError               uint = pkcs11.CKR_GENERAL_ERROR
	CKRFunctionFailed             uint = pkcs11.CKR_FUNCTION_FAILED
	CKRArgumentsBad               uint = pkcs11.CKR_ARGUMENTS_BAD
	CKRDataLenRange               uint = pkcs11.CKR_DATA_LEN_RANGE
	CKRDeviceError                uint = pkcs11.CKR_DEVICE_ERROR
	CKRDeviceMemory               uint = pkcs11.CKR_DEVICE_MEMORY
	CKRDeviceRemoved              uint = pkcs11.CKR_DEVICE_REMOVED
	CKRKeyHandleInvalid           uint = pkcs11.CKR_KEY_HANDLE_INVALID
	CKRObjectHandleInvalid        uint = pkcs11.CKR_OBJECT_HANDLE_INVALID
	CKRPINIncorrect               uint = pkcs11.CKR_PIN_INCORRECT
	CKRPINInvalid                 uint = pkcs11.CKR_PIN_INVALID
	CKRPINLenRange                uint = pkcs11.CKR_PIN_LEN_RANGE
	CKRPINExpired                 uint = pkcs11.CKR_PIN_EXPIRED
	CKRPINLocked                  uint = pkcs11.CKR_PIN_LOCKED
	CKRSessionClosed              uint = pkcs11.CKR_SESSION_CLOSED
	CKRSessionHandleInvalid       uint = pkcs11.CKR_SESSION_HANDLE_INVALID
	CKRTokenNotPresent            uint = pkcs11.CKR_TOKEN_NOT_PRESENT
	CKRTokenNotRecognized         uint = pkcs11.CKR_TOKEN_NOT_RECOGNIZED
	CKRUserAlreadyLoggedIn        uint = pkcs11.CKR_USER_ALREADY_LOGGED_IN
	CKRUserNotLoggedIn            uint = pkcs11.CKR_USER_NOT_LOGGED_IN
	CKRUserAnotherAlreadyLoggedIn uint = pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN
	CKRCryptokiNotInitialized     uint = pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED
)

// Class is what an error of this package means for the caller: what it has to
// do next. Every error has one.
type Class int

const (
	// ClassNone: the error is nil, or not of this package.
	ClassNone Class = iota
	// ClassOther: the token or its module answered with a return code that a program
	// knows no cure for.
	ClassOther
	// ClassReconnect: the token or a handle is gone. Open a new session, log in,
	// and look all handles up again.
	ClassReconnect
	// ClassRelogin: the login was lost, or is half there. Log out, then in.
	ClassRelogin
	// ClassPINRejected: the token refused this PIN. Never send it again.
	ClassPINRejected
	// ClassPINLocked: the token takes no PIN any more. A person must unblock it.
	ClassPINLocked
	// ClassPINUnfit: the token does not take the PIN that it was to get, because
	// of its length or characters. Nothing was changed; the PIN that was sent to
	// allow the change is right.
	ClassPINUnfit
	// ClassFull: the token has no room for the object.
	ClassFull
	// ClassTooLarge: the object is larger than the token takes at all.
	ClassTooLarge
	// ClassTokenAbsent: no token matches the selector. Wait until it is inserted.
	ClassTokenAbsent
	// ClassTokenAmbiguous: more than one token matches. A person must choose.
	ClassTokenAmbiguous
	// ClassNotBlank: a token that has a user PIN was to be initialised. Nothing was
	// changed.
	ClassNotBlank
	// ClassInvalid: the caller asked for what cannot be done. Nothing was changed;
	// asking again is of no use.
	ClassInvalid
	// ClassMalformed: the token answered, but not with what was asked for: half a key
	// pair, two of them, or a key of another kind.
	ClassMalformed
	// ClassModule: the library is missing, or is no PKCS#11 module.
	ClassModule

	endOfClasses
)

// Classes are all classes, for a table that has a row for each.
func Classes() []Class {
	all := make([]Class, endOfClasses)
	for i := range all {
		all[i] = Class(i)
	}
	return all
}

var classNames = [endOfClasses]string{
	"None", "Other", "Reconnect", "Relogin", "PINRejected", "PINLocked", "PINUnfit", "Full", "TooLarge",
	"TokenAbsent", "TokenAmbiguous", "NotBlank", "Invalid", "Malformed", "Module",
}

func (c Class) String() string {
	if c < 0 || c >= endOfClasses {
		return fmt.Sprintf("Class(%d)", int(c))
	}
	return classNames[c]
}

// classOf is the class of a return code, whichever function returned it. (*Error).Class
// makes the exceptions for single functions; Session.Login ends a login by its code
// before anybody asks for a class. The reconnect and PIN codes are those that OpenSC
// with a Pico HSM and SoftHSM 2 were seen to give; the other dead handles follow from
// PKCS#11 v2.40 section 5.1.
func classOf(code uint) Class {
	switch code {
	case CKRGeneralError, CKRDeviceError, CKRDeviceRemoved, CKRTokenNotPresent, CKRTokenNotRecognized,
		CKRSessionHandleInvalid, CKRSessionClosed, CKRObjectHandleInvalid, CKRKeyHandleInvalid,
		CKRSlotIDInvalid, CKRCryptokiNotInitialized:
		return ClassReconnect
	case CKRUserNotLoggedIn, CKRUserAlreadyLoggedIn, CKRUserAnotherAlreadyLoggedIn:
		return ClassRelogin
	case CKRPINIncorrect, CKRPINInvalid, CKRPINLenRange, CKRPINExpired:
		return ClassPINRejected
	case CKRPINLocked:
		return ClassPINLocked
	case CKRDeviceMemory:
		return ClassFull
	case CKRDataLenRange:
		return ClassTooLarge
	}
	return ClassOther
}

// Error is a PKCS#11 function that did not return CKR_OK.
type Error struct {
	Op   string // The function, as "C_Login".
	Code uint   // CKR_*
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", e.Op, pkcs11.Error(e.Code).Error())
}

// Class is what the caller has to do. A function that sets a PIN gives two codes for
// the new PIN that elsewhere are about the PIN that was sent.
func (e *Error) Class() Class {
	if givesPIN := e.Op == "C_SetPIN" || e.Op == "C_InitPIN"; givesPIN && (e.Code == CKRPINInvalid || e.Code == CKRPINLenRange) {
		return ClassPINUnfit // PKCS#11 v2.40, sections 5.5 C_InitPIN and C_SetPIN.
	}
	return classOf(e.Code)
}

// ClassOf is the class of the first error of this package in err's chain,
// ClassNone if there is none.
func ClassOf(err error) Class {
	var e interface {
		error
		Class() Class
	}
	if errors.As(err, &e) {
		return e.Class()
	}
	return ClassNone
}

// MayBeRefusal reports whether an error says as well that the token is lost as that it
// refused what it was asked for: a token of OpenSC's whose flash is full answers with the
// code of one that was pulled. A call that reaches the token tells which.
func MayBeRefusal(err error) bool {
	return hasCode(err, CKRGeneralError) || hasCode(err, CKRDeviceError) || hasCode(err, CKRFunctionFailed)
}

// classified is an error of this package that comes from no return code.
type classified struct {
	error
	class Class
}

func (e *classified) Unwrap() error { return e.error }
func (e *classified) Class() Class  { return e.class }

func errorf(class Class, format string, args ...any) error {
	return &classified{fmt.Errorf(format, args...), class}
}

// wrap gives an error of the binding its function; nil stays nil.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return errorf(ClassOther, "%s: %w", op, err)
	}
	return &Error{Op: op, Code: uint(code)}
}

// hasCode reports whether err is an *Error of that return code.
func hasCode(err error, code uint) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
