// SPDX-License-Identifier: Apache-2.0

// Package pkcs11 owns the way to a token: module, slot, session, login, and
// what a token's return codes mean. It is the only importer of a PKCS#11
// binding. It never retries, never caches, and knows nothing of what is stored.
package pkcs11

// Handle names an object while the session lives. Nothing may keep one across
// a reconnect.
type Handle uint

// Object is a data object (CKO_DATA) as a listing shows it, without its value.
// Label and Application can be read without the PIN on many tokens.
type Object struct {
	Handle      Handle
	Label       string // CKA_LABEL
	Application string // CKA_APPLICATION
}

// TokenInfo is what a token says of itself without a login
// (CK_TOKEN_INFO, PKCS#11 v2.40 section 3.2). Strings come without their padding.
type TokenInfo struct {
	SlotID          uint
	Reader          string // slotDescription of CK_SLOT_INFO, section 3.2: at most 64 bytes.
	Label           string
	Manufacturer    string
	Model           string
	Serial          string
	FirmwareVersion string // "major.minor"
	HardwareVersion string // "major.minor", of CK_SLOT_INFO: of a stick that is its own reader, bcdDevice of USB

	Initialized        bool // CKF_TOKEN_INITIALIZED: the token is formatted; a blank one may be too.
	UserPINInitialized bool // CKF_USER_PIN_INITIALIZED: false means blank.
	UserPINCountLow    bool // CKF_USER_PIN_COUNT_LOW: a wrong PIN was sent since the last login.
	UserPINFinalTry    bool // CKF_USER_PIN_FINAL_TRY: one more wrong PIN locks the token.
	UserPINLocked      bool // CKF_USER_PIN_LOCKED
}
