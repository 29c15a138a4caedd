// SPDX-License-Identifier: Apache-2.0

package pkcs11

import "sync/atomic"

// Calls counts what a Module asked of its tokens since it was opened, also what
// failed. Objects that live only in a session, as ECDH makes them, count as
// nothing but their Derives.
type Calls struct {
	Logins     uint64 // C_Login of the user
	Finds      uint64 // C_FindObjectsInit
	LabelReads uint64 // C_GetAttributeValue of a listing
	ValueReads uint64 // C_GetAttributeValue of CKA_VALUE of a data object
	Creates    uint64 // C_CreateObject
	Destroys   uint64 // C_DestroyObject
	KeyPairs   uint64 // C_GenerateKeyPair
	Derives    uint64 // C_DeriveKey
	Randoms    uint64 // C_GenerateRandom
}

type counters struct {
	logins, finds, labelReads, valueReads, creates, destroys, keyPairs, derives, randoms atomic.Uint64
}

// Calls may be called from any goroutine.
func (m *Module) Calls() Calls {
	c := &m.calls
	return Calls{
		Logins:     c.logins.Load(),
		Finds:      c.finds.Load(),
		LabelReads: c.labelReads.Load(),
		ValueReads: c.valueReads.Load(),
		Creates:    c.creates.Load(),
		Destroys:   c.destroys.Load(),
		KeyPairs:   c.keyPairs.Load(),
		Derives:    c.derives.Load(),
		Randoms:    c.randoms.Load(),
	}
}
