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
	// Visible is how many objects of the token a fresh process sees, keys and
	// certificates included; 0 is no limit. What is beyond it is lost.
	Visible int
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

// openSCVisible is what OpenSC shows in all: 126 to 128 objects were counted, by version.
const openSCVisible = 126

// profiles by what a token says of itself; the last one is for all others.
// The figures were measured, or are the poorest that the sources allow.
var profiles = []struct {
	manufacturer, model string // An empty one matches all.
	Profile
}{
	// Objects end at 4032 bytes.
	{manufacturer: "Pol Henarejos", Profile: Profile{
		Name: "pico", Objects: 112, Visible: openSCVisible, Reserve: 15, SegmentBytes: 3900, RecordBytes: 64 << 10}},
	// 76 KB in all, keys included; some versions take 1.2 KB in one object.
	{manufacturer: "www.CardContact.de", Profile: Profile{
		Name: "smartcard-hsm", Objects: 112, Visible: openSCVisible, Reserve: 15, SegmentBytes: 1200, StoreBytes: 60 << 10, RecordBytes: 16 << 10}},
	{manufacturer: "SoftHSM project", model: "SoftHSM v2", Profile: Profile{
		Name: "softhsm", Objects: 32 << 10, Reserve: 64, SegmentBytes: 64 << 10, RecordBytes: 2 << 20}},
	{Profile: Profile{
		Name: "generic", Objects: 112, Visible: openSCVisible, Reserve: 15, SegmentBytes: 1200, StoreBytes: 60 << 10, RecordBytes: 16 << 10}},
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

// beside is the profile of data objects alone, on a token that holds so many keys and
// certificates.
func (p Profile) beside(keys int) Profile {
	if p.Visible > 0 {
		p.Visible = max(1, p.Visible-keys)
		p.Objects = min(p.Objects, p.Visible)
	}
	return p
}

// shows reports whether a fresh process sees one more than so many data objects.
func (p Profile) shows(objects int) bool { return p.Visible == 0 || objects < p.Visible }

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
