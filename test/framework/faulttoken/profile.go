// SPDX-License-Identifier: Apache-2.0

package faulttoken

import "j5t.io/hsm/pkg/pkcs11"

// Profile is the habits of a kind of token.
type Profile struct {
	Name                string
	Manufacturer, Model string

	// Visible is how many data objects a fresh process sees.
	Visible int
	// Creates is how many C_CreateObject makes; the next one gets FullCode.
	Creates  int
	FullCode uint
	// MaxBytes is the longest value. A longer one gets CKR_GENERAL_ERROR, or, if
	// TruncatesTo is set, CKR_OK, and a fresh process reads so many bytes of it.
	MaxBytes    int
	TruncatesTo int
	// TotalBytes is the room for all values; 0 is no limit.
	TotalBytes int
	// EmptyValues: a value may be empty; else CKR_ARGUMENTS_BAD.
	EmptyValues bool
	// LongNames: labels and application names of 250 bytes survive a reopen.
	LongNames bool
	// Memory: the module lists objects and reads values again from the
	// process's memory, until it is initialised anew.
	Memory bool
	// TwoSteps: the value is written before the description that makes the
	// object visible, and removed before it.
	TwoSteps bool
	// PINTries is how many wrong PINs in a row lock the token.
	PINTries int
}

// The tokens that were looked at.
var (
	// Pico66 is a Pico HSM with firmware 6.6 through OpenSC.
	Pico66 = Profile{
		Name: "pico-6.6", Manufacturer: "Pol Henarejos", Model: "PKCS#15 emulated",
		Visible: 126, Creates: 128, FullCode: pkcs11.CKRGeneralError, MaxBytes: 4032,
		Memory: true, TwoSteps: true, PINTries: 3,
	}
	// PicoDev is a Pico HSM with a development firmware of August 2026 through OpenSC.
	PicoDev = Profile{
		Name: "pico-dev", Manufacturer: "Pol Henarejos", Model: "PKCS#15 emulated",
		Visible: 126, Creates: 256, FullCode: pkcs11.CKRDeviceMemory, MaxBytes: 32767, TruncatesTo: 1024,
		Memory: true, TwoSteps: true, PINTries: 3,
	}
	// SmartCardHSM is a SmartCard-HSM or Nitrokey HSM 2 through OpenSC.
	SmartCardHSM = Profile{
		Name: "smartcard-hsm", Manufacturer: "www.CardContact.de", Model: "PKCS#15 emulated",
		Visible: 126, Creates: 256, FullCode: pkcs11.CKRDeviceMemory, MaxBytes: 1216, TotalBytes: 76 << 10,
		Memory: true, TwoSteps: true, PINTries: 3,
	}
	// SoftHSM is SoftHSM 2.6.1.
	SoftHSM = Profile{
		Name: "softhsm", Manufacturer: "SoftHSM project", Model: "SoftHSM v2",
		Visible: 1 << 20, Creates: 1 << 20, FullCode: pkcs11.CKRDeviceMemory, MaxBytes: 16 << 20,
		EmptyValues: true, LongNames: true, PINTries: 10,
	}
	// Profiles are all of them.
	Profiles = []Profile{Pico66, PicoDev, SmartCardHSM, SoftHSM}
)

// createCost is the APDUs and the flash sectors that a Pico HSM needs for an
// object of so many bytes, as measured; between two rows it grows evenly.
func createCost(bytes int) (apdus, sectors int) {
	rows := []struct{ bytes, apdus, sectors int }{
		{0, 8, 6}, {1215, 8, 7}, {1216, 9, 10}, {2430, 9, 10}, {4000, 11, 18}, {8000, 14, 41}, {32767, 34, 339},
	}
	for i := 1; i < len(rows); i++ {
		a, b := rows[i-1], rows[i]
		if bytes <= b.bytes || i == len(rows)-1 {
			between := func(from, to int) int { return from + (to-from)*(bytes-a.bytes)/(b.bytes-a.bytes) }
			return between(a.apdus, b.apdus), between(a.sectors, b.sectors)
		}
	}
	panic("the last row takes all")
}

// What the other calls cost on a Pico HSM.
const (
	destroyAPDUs, destroySectors = 3, 5
	openAPDUs, openAPDUsAnObject = 24, 3
	readAPDUsAKilobyte           = 1
)
