// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"
)

// Module is a loaded and initialised PKCS#11 library. A process holds at most
// one Module of a library file: PKCS#11 has one state per library.
//
// A Module is used by one goroutine at a time; only Calls may be called from
// others.
type Module struct {
	path  string
	ctx   *pkcs11.Ctx
	calls counters
}

// Open loads a library and calls C_Initialize. The path must be absolute: a
// bare name would let the loader's search path decide which code gets the PIN.
func Open(libraryPath string) (*Module, error) {
	if !filepath.IsAbs(libraryPath) {
		return nil, errorf(ClassInvalid, "PKCS#11 module %q: the path must be absolute", libraryPath)
	}
	if _, err := os.Stat(libraryPath); err != nil {
		return nil, errorf(ClassModule, "PKCS#11 module is missing: %w", err)
	}
	ctx := pkcs11.New(libraryPath)
	if ctx == nil {
		return nil, errorf(ClassModule, "%s is not a PKCS#11 module: it cannot be loaded, or has no C_GetFunctionList", libraryPath)
	}
	m := &Module{path: libraryPath, ctx: ctx}
	if err := m.initialize(); err != nil {
		return nil, err
	}
	return m, nil
}

// Reinitialize calls C_Finalize and C_Initialize. Some modules (OpenSC) read
// the token afresh only then. All sessions and handles are dead afterwards.
func (m *Module) Reinitialize() error {
	err := wrap("C_Finalize", m.ctx.Finalize())
	if err != nil && ClassOf(err) != ClassReconnect {
		return fmt.Errorf("PKCS#11 module %s: %w", m.path, err)
	}
	return m.initialize()
}

// Close calls C_Finalize. The library stays mapped: modules leave threads and
// exit handlers behind that would run unmapped code.
func (m *Module) Close() error {
	if err := wrap("C_Finalize", m.ctx.Finalize()); err != nil {
		return fmt.Errorf("PKCS#11 module %s: %w", m.path, err)
	}
	return nil
}

// initializing keeps the modules of a process from running C_Initialize at
// once. Each may use process-wide state there: SoftHSM reads its configuration
// with strtok (SimpleConfigLoader.cpp), and would miss lines of it.
var initializing sync.Mutex

func (m *Module) initialize() error {
	initializing.Lock()
	defer initializing.Unlock()
	if err := wrap("C_Initialize", m.ctx.Initialize()); err != nil {
		return fmt.Errorf("PKCS#11 module %s: %w", m.path, err)
	}
	return nil
}

// Tokens lists the tokens that are present. A slot whose token does not answer
// is left out.
func (m *Module) Tokens() ([]TokenInfo, error) {
	seen, _, err := m.tokens()
	return seen, err
}

// tokens also returns why the tokens of other slots did not answer.
func (m *Module) tokens() (seen []TokenInfo, silent []error, err error) {
	slots, err := slotsWithToken(m.ctx.GetSlotList)
	if err != nil {
		return nil, nil, wrap("C_GetSlotList", err)
	}
	for _, slot := range slots {
		info, err := m.TokenInfo(slot)
		if err != nil {
			silent = append(silent, fmt.Errorf("slot %d: %w", slot, err))
			continue
		}
		seen = append(seen, info)
	}
	return seen, silent, nil
}

// slotListAttempts is how often in a row the slots are listed at most.
const slotListAttempts = 10

// slotsWithToken lists the slots that hold a token. That takes two calls of C_GetSlotList,
// the first for the length of the list. A token that is plugged in between them makes the
// list longer, and the second answers CKR_BUFFER_TOO_SMALL, as OpenSC was seen to do.
func slotsWithToken(getSlotList func(tokenPresent bool) ([]uint, error)) (slots []uint, err error) {
	for range slotListAttempts {
		slots, err = getSlotList(true)
		if !errors.Is(err, pkcs11.Error(pkcs11.CKR_BUFFER_TOO_SMALL)) {
			break
		}
	}
	return slots, err
}

// TokenInfo asks the token of a slot for its information and PIN flags. It
// needs no session and no login.
func (m *Module) TokenInfo(slotID uint) (TokenInfo, error) {
	t, err := m.ctx.GetTokenInfo(slotID)
	if err != nil {
		return TokenInfo{}, wrap("C_GetTokenInfo", err)
	}
	slot, err := m.ctx.GetSlotInfo(slotID)
	if err != nil {
		return TokenInfo{}, wrap("C_GetSlotInfo", err)
	}
	is := func(flag uint) bool { return t.Flags&flag != 0 }
	return TokenInfo{
		SlotID:             slotID,
		Reader:             trim(slot.SlotDescription),
		Label:              trim(t.Label),
		Manufacturer:       trim(t.ManufacturerID),
		Model:              trim(t.Model),
		Serial:             trim(t.SerialNumber),
		FirmwareVersion:    fmt.Sprintf("%d.%d", t.FirmwareVersion.Major, t.FirmwareVersion.Minor),
		HardwareVersion:    fmt.Sprintf("%d.%d", slot.HardwareVersion.Major, slot.HardwareVersion.Minor),
		Initialized:        is(pkcs11.CKF_TOKEN_INITIALIZED),
		UserPINInitialized: is(pkcs11.CKF_USER_PIN_INITIALIZED),
		UserPINCountLow:    is(pkcs11.CKF_USER_PIN_COUNT_LOW),
		UserPINFinalTry:    is(pkcs11.CKF_USER_PIN_FINAL_TRY),
		UserPINLocked:      is(pkcs11.CKF_USER_PIN_LOCKED),
	}, nil
}

// trim takes off the padding: blanks by PKCS#11, zero bytes by some modules.
func trim(s string) string { return strings.Trim(s, " \x00") }

// Selector chooses one token. Every field that is set must match; the zero
// Selector matches any token.
type Selector struct {
	// Serial is the token's own serial number, or that of the USB device which is its
	// reader and itself in one. The two may differ: a Pico HSM makes its own of the key
	// of the device. libccid puts the USB serial number into the name of a reader, in
	// parentheses (readerfactory.c of pcsc-lite and ccid_usb.c of libccid), and OpenSC
	// gives that name as the slot's description (src/pkcs11/slot.c), cut to 64 bytes. Of a
	// number that is cut off the part that is there has to match, and only one token may.
	Serial string
	Label  string
	SlotID *uint
}

// Matches reports whether a token is one that the selector chooses.
func (s Selector) Matches(t TokenInfo) bool {
	return (s.Serial == "" || s.Serial == t.Serial || readerHas(t.Reader, s.Serial)) &&
		(s.Label == "" || s.Label == t.Label) &&
		(s.SlotID == nil || *s.SlotID == t.SlotID)
}

// slotDescriptionBytes is the size of slotDescription in CK_SLOT_INFO.
const slotDescriptionBytes = 64

// readerHas reports whether a serial number is in the name of a reader, or the part of it
// that is not cut off. That has to be three quarters of it: serial numbers of one maker
// begin alike, and the PIN must not go to another token.
func readerHas(reader, serial string) bool {
	if strings.Contains(reader, "("+serial+")") {
		return true
	}
	at := strings.LastIndexByte(reader, '(')
	if len(reader) < slotDescriptionBytes || at < 0 {
		return false
	}
	part := reader[at+1:]
	return 4*len(part) >= 3*len(serial) && strings.HasPrefix(serial+")", part)
}

func (s Selector) String() string {
	var parts []string
	if s.Serial != "" {
		parts = append(parts, fmt.Sprintf("serial %q", s.Serial))
	}
	if s.Label != "" {
		parts = append(parts, fmt.Sprintf("label %q", s.Label))
	}
	if s.SlotID != nil {
		parts = append(parts, fmt.Sprintf("slot %d", *s.SlotID))
	}
	if len(parts) == 0 {
		return "any"
	}
	return strings.Join(parts, ", ")
}

var (
	// ErrTokenAbsent is in the chain of Find's error when no token matches.
	ErrTokenAbsent = errorf(ClassTokenAbsent, "no such token")
	// ErrTokenAmbiguous is there when more than one does.
	ErrTokenAmbiguous = errorf(ClassTokenAmbiguous, "more than one such token: give its serial")
)

// Find returns the one token that the selector matches. Its error lists the
// tokens that are present.
func (m *Module) Find(s Selector) (TokenInfo, error) {
	seen, silent, err := m.tokens()
	if err != nil {
		return TokenInfo{}, err
	}
	var found []TokenInfo
	for _, t := range seen {
		if s.Matches(t) {
			found = append(found, t)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	cause := ErrTokenAbsent
	if len(found) > 1 {
		cause = ErrTokenAmbiguous
	}
	return TokenInfo{}, fmt.Errorf("%w (wanted: %s; present: %s)", cause, s, describe(seen, silent))
}

func describe(seen []TokenInfo, silent []error) string {
	var parts []string
	for _, t := range seen {
		parts = append(parts, fmt.Sprintf("serial %q label %q slot %d reader %q", t.Serial, t.Label, t.SlotID, t.Reader))
	}
	for _, err := range silent {
		parts = append(parts, err.Error())
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, "; ")
}
