// SPDX-License-Identifier: Apache-2.0

package faulttoken

import "j5t.io/hsm/pkg/pkcs11"

// Profile is the habits of a kind of token.
type Profile struct {
	Name                string
	Manufacturer, Model string
	// Label and Serial are what every token of the kind calls itself; if they are empty, Name,
	// and a serial number of its own.
	Label, Serial string
	// HardwareVersion is that of CK_SLOT_INFO: the reader's, which tells the firmware's
	// SDK. Empty: 1.0.
	HardwareVersion string

	// Visible is how many data objects a fresh process sees.
	Visible int
	// KeysCount: a key pair of the user takes the places of two of them, a certificate of one.
	KeysCount bool
	// Creates is how many data objects there can be; one more gets FullCode.
	Creates  int
	FullCode uint
	// Files is how many files there can be: two for a data object, three for a key
	// pair. One more gets FullCode. 0 is no limit.
	Files int
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
	// Flash is where values and descriptions lie.
	Flash Flash

	// Memory: the module lists objects and reads values again from the
	// process's memory, until it is initialised anew.
	Memory bool
	// MemoryReads: a read from memory does not notice that the login was lost, nor, for
	// so many of them, that the token was pulled.
	MemoryReads int
	// TwoSteps: the value is written before the description that makes the
	// object visible, and removed before it.
	TwoSteps bool
	// Stuck: an object whose description alone is left can never be destroyed.
	Stuck bool
	// Orphans: a value without a description stays, and what is created next takes its place.
	Orphans bool

	// PINTries is how many wrong PINs in a row lock the token.
	PINTries int
	// LoginWrites: a login writes a flash sector.
	LoginWrites bool
	// LabelKills: C_InitToken with a label makes the firmware overwrite itself.
	LabelKills bool
}

// The tokens that were looked at. Pico66, PicoDev and SmartCardHSM are kinder than the
// field: they have no flash that wears and fragments, and nothing on them gets stuck.
var (
	// Pico66 is a Pico HSM with firmware 6.6 through OpenSC.
	Pico66 = Profile{
		Name: "pico-6.6", Manufacturer: picoManufacturer, Model: openSCModel,
		Visible: 126, Creates: 128, FullCode: pkcs11.CKRGeneralError, MaxBytes: 4032,
		Memory: true, TwoSteps: true, PINTries: 3,
	}
	// PicoDev is a Pico HSM with a development firmware of August 2026 through OpenSC.
	PicoDev = Profile{
		Name: "pico-dev", Manufacturer: picoManufacturer, Model: openSCModel,
		Visible: 126, Creates: 256, FullCode: pkcs11.CKRDeviceMemory, MaxBytes: 32767, TruncatesTo: 1024,
		Memory: true, TwoSteps: true, PINTries: 3,
	}
	// SmartCardHSM is a SmartCard-HSM or Nitrokey HSM 2 through OpenSC.
	SmartCardHSM = Profile{
		Name: "smartcard-hsm", Manufacturer: "www.CardContact.de", Model: openSCModel,
		Visible: 126, Creates: 256, FullCode: pkcs11.CKRDeviceMemory, MaxBytes: 1216, TotalBytes: 76 << 10,
		Memory: true, TwoSteps: true, PINTries: 3,
	}
	// SoftHSM is SoftHSM 2.6.1.
	SoftHSM = Profile{
		Name: "softhsm", Manufacturer: "SoftHSM project", Model: "SoftHSM v2",
		Visible: 1 << 20, Creates: 1 << 20, FullCode: pkcs11.CKRDeviceMemory, MaxBytes: 16 << 20,
		EmptyValues: true, LongNames: true, PINTries: 10,
	}
	// Profiles are those that the store has to be right on.
	Profiles = []Profile{Pico66, PicoDev, SmartCardHSM, SoftHSM}
)

const (
	picoManufacturer = "Pol Henarejos"
	openSCModel      = "PKCS#15 emulated"
)

// Pico HSMs with every habit that was measured on real firmware, through OpenSC 0.23 and 0.27.
var (
	// Pico66With1M is release 6.6 on a stick of 2 MB, half of which holds files.
	Pico66With1M = measured(Profile{
		Name: "pico-6.6-1m", HardwareVersion: "8.6", Flash: Flash{Sectors: 256 - reservedSectors},
		Creates: 128, Files: 256, FullCode: pkcs11.CKRGeneralError, MaxBytes: 4032, Orphans: true,
	})
	// Pico66With3M is release 6.6 on a stick of 4 MB.
	Pico66With3M = measured(Profile{
		Name: "pico-6.6-3m", HardwareVersion: "8.6", Flash: Flash{Sectors: 768 - reservedSectors},
		Creates: 128, Files: 256, FullCode: pkcs11.CKRGeneralError, MaxBytes: 4032, Orphans: true,
	})
	// PicoNext is the development firmware of August 2026 on a stick of 2 MB.
	PicoNext = measured(Profile{
		Name: "pico-next", HardwareVersion: "9.0", Flash: Flash{Sectors: 256 - reservedSectors, Gaps: true},
		Creates: 256, FullCode: pkcs11.CKRDeviceMemory, MaxBytes: 32767, TruncatesTo: 1024, Orphans: true,
	})
	// FieldProfiles are all of them.
	FieldProfiles = []Profile{Pico66With1M, Pico66With3M, PicoNext}
)

// reservedSectors of a Pico HSM hold no files of users.
const reservedSectors = 4

func measured(p Profile) Profile {
	p.Manufacturer, p.Model, p.Label, p.Serial = picoManufacturer, openSCModel, "Pico-HSM (UserPIN)", "ESPICOHSMTR"
	p.Visible, p.KeysCount = 126, true
	p.Memory, p.MemoryReads = true, 1000 // 0.3 s of reads that take 0.26 ms.
	p.TwoSteps, p.Stuck = true, true
	p.PINTries, p.LoginWrites, p.LabelKills = 3, true, true
	return p
}

// Tokens that a store cannot live on, or that were only read about.
var (
	// Embedded is a Pico HSM or SmartCard-HSM through libsc-hsm-pkcs11.so (sc-hsm-embedded).
	Embedded = Profile{
		Name: "sc-hsm-embedded", Manufacturer: "www.CardContact.de", Model: "SmartCard-HSM",
		FullCode: ckrTemplateInconsistent, PINTries: 3,
	}
	// YubiHSM is a YubiHSM 2.
	YubiHSM = Profile{
		Name: "yubihsm", Manufacturer: "Yubico (www.yubico.com)", Model: "YubiHSM",
		Visible: 256, Creates: 256, FullCode: pkcs11.CKRDeviceMemory, MaxBytes: 1900, PINTries: 10,
	}
)

// Return codes that only doubles need (PKCS#11 v2.40 section 5.1).
const (
	ckrAttributeReadOnly    = 0x10
	ckrOperationActive      = 0x90
	ckrTemplateInconsistent = 0xD1
)
