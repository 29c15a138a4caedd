// SPDX-License-Identifier: Apache-2.0

package token

import (
	"strings"

	"j5t.io/hsm/pkg/pkcs11"
)

// Profile is what a kind of token holds. Its limits are what keeps a create
// honest: beyond them tokens say CKR_OK and lose the object.
type Profile struct {
	Name string
	// Objects is how many data objects, of all applications, a commit may bring
	// the token to.
	Objects int
	// Reserve is how many of them are kept for updates and deletes, which need
	// space before they give some back; the last third is for deletes and compaction,
	// the last sixth for compaction alone.
	Reserve int
	// SegmentBytes is the length of the longest object.
	SegmentBytes int
	// StoreBytes limits the sum of the lengths of the store's objects; 0 is no
	// limit. The same part of it is kept back as of Objects.
	StoreBytes int
	// RecordBytes is the length of the longest record, encoded.
	RecordBytes int
}

// profiles by what a token says of itself; the last one is for all others.
// The figures were measured, or are the poorest that the sources allow.
var profiles = []struct {
	manufacturer, model string // An empty one matches all.
	Profile
}{
	// A fresh process sees 126 data objects and one key pair; what is left over
	// here is for other keys and certificates. Objects end at 4032 bytes.
	{manufacturer: "Pol Henarejos", Profile: Profile{
		Name: "pico", Objects: 112, Reserve: 15, SegmentBytes: 3900, RecordBytes: 64 << 10}},
	// 76 KB in all, keys included; some versions take 1.2 KB in one object.
	{manufacturer: "www.CardContact.de", Profile: Profile{
		Name: "smartcard-hsm", Objects: 112, Reserve: 15, SegmentBytes: 1200, StoreBytes: 60 << 10, RecordBytes: 16 << 10}},
	{manufacturer: "SoftHSM project", model: "SoftHSM v2", Profile: Profile{
		Name: "softhsm", Objects: 32 << 10, Reserve: 64, SegmentBytes: 64 << 10, RecordBytes: 2 << 20}},
	{Profile: Profile{
		Name: "generic", Objects: 112, Reserve: 15, SegmentBytes: 1200, StoreBytes: 60 << 10, RecordBytes: 16 << 10}},
}

// ProfileFor is the profile of a token by its manufacturer and model, the
// poorest one if they are not known.
func ProfileFor(info pkcs11.TokenInfo) Profile {
	for _, p := range profiles {
		if (p.manufacturer == "" || p.manufacturer == info.Manufacturer) && (p.model == "" || p.model == info.Model) {
			return p.Profile
		}
	}
	panic("the last profile matches every token")
}

// ProfileNamed is the profile of a name, for a token that does not say what it is.
func ProfileNamed(name string) (Profile, error) {
	var names []string
	for _, p := range profiles {
		if p.Name == name {
			return p.Profile, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, errorf(Invalid, "there is no token profile %q: choose one of %s", name, strings.Join(names, ", "))
}
