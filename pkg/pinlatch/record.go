// SPDX-License-Identifier: Apache-2.0

package pinlatch

import (
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// pinRecord is what is known of the PINs of one token.
type pinRecord struct {
	Rejected []tag    `json:"rejected,omitempty"`
	Last     *attempt `json:"last,omitempty"`
	Change   *change  `json:"change,omitempty"`
}

// attempt is a login that did not succeed, or was not made.
type attempt struct {
	PIN      tag  `json:"pin"`
	UnderWay bool `json:"underWay,omitempty"` // It was being made.
}

// settle forgets an attempt that the token shows nothing came of.
func (k *pinRecord) settle(t pkcs11.TokenInfo) {
	full := !t.UserPINCountLow && !t.UserPINFinalTry && !t.UserPINLocked
	if k.Last != nil && full && (!k.Last.UnderWay || reportsTries(t)) {
		k.Last = nil
	}
}

// refuse says why a PIN must not be sent; 0 when it may.
func (k *pinRecord) refuse(pin tag, t pkcs11.TokenInfo) Reason {
	switch {
	case t.UserPINLocked:
		return ReasonLocked
	case slices.Contains(k.Rejected, pin):
		return ReasonRejected
	case t.UserPINFinalTry:
		return ReasonFinalTry
	case k.Last != nil && k.Last.PIN != pin:
		return 0 // The PIN file was changed.
	case k.Last != nil && k.Last.UnderWay:
		return ReasonOutcomeUnknown
	case t.UserPINCountLow:
		return ReasonCountLow
	}
	return 0
}

func (k *pinRecord) reject(pin tag) {
	k.Rejected = append(without(k.Rejected, pin), pin)
	k.Last = &attempt{PIN: pin}
}

// accept also takes back a rejection: the token's PIN was changed to one that
// it rejected before.
func (k *pinRecord) accept(pin tag) {
	k.Rejected = without(k.Rejected, pin)
	k.Last = nil
	k.Change = k.Change.after(k, pin)
}

func without(tags []tag, t tag) []tag {
	return slices.DeleteFunc(tags, func(other tag) bool { return other == t })
}

// reporting are the tokens whose flags in CK_TOKEN_INFO are known to tell, at
// each C_GetTokenInfo, whether a wrong PIN was sent since the last login:
// SoftHSM sets and clears CKF_USER_PIN_COUNT_LOW in Token.cpp, loginUser; OpenSC
// asks the card in framework-pkcs15.c, C_GetTokenInfo.
var reporting = []struct{ manufacturer, model string }{
	{"SoftHSM project", "SoftHSM v2"},
	{"www.CardContact.de", "PKCS#15 emulated"}, // SmartCard-HSM, Nitrokey HSM 2
	{"Pol Henarejos", "PKCS#15 emulated"},      // Pico HSM
}

func reportsTries(t pkcs11.TokenInfo) bool {
	for _, r := range reporting {
		if t.Manufacturer == r.manufacturer && t.Model == r.model {
			return true
		}
	}
	return false
}
