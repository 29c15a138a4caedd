// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"
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
	// room before they give some back; the last third is for deletes and packing,
	// the last sixth for packing alone.
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
	return Profile{}, fmt.Errorf("there is no token profile %q: choose one of %s", name, strings.Join(names, ", "))
}

// Usage is how much of a token is used, and by what.
type Usage struct {
	Profile Profile
	// Objects is the number of data objects on the token, of all applications.
	Objects int
	// Bytes is the length of the store's objects together.
	Bytes int
	// FreeObjects and FreeBytes are what new records can take yet, superseded and
	// spare objects counted as free, the reserve not. FreeBytes is the length of
	// segments, and never more than the free objects can hold.
	FreeObjects, FreeBytes int
	// Superseded is the number of objects that Tidy is going to destroy.
	Superseded int
	// SpareObjects and SpareBytes are of the objects, superseded ones included,
	// that hold no record. The next commits make room of them.
	SpareObjects, SpareBytes int
	// Foreign is the number of objects of other applications.
	Foreign int
	// Legacy is the number of objects of the older operator among Foreign.
	Legacy int
	// Quarantined is the number of objects of ours that are not of the store, and
	// are left alone.
	Quarantined int
}

func (u *Usage) spare(o object) {
	u.SpareObjects++
	u.SpareBytes += o.bytes
}

// free counts what is free for new records.
func (u *Usage) free() {
	p := u.Profile
	u.FreeObjects = max(0, p.Objects-p.Reserve-u.Objects+u.SpareObjects)
	u.FreeBytes = u.FreeObjects * p.SegmentBytes
	if p.StoreBytes > 0 {
		limit := p.StoreBytes - p.StoreBytes*p.Reserve/p.Objects
		u.FreeBytes = max(0, min(u.FreeBytes, limit-u.Bytes+u.SpareBytes))
	}
}

// room tells whether so many objects and bytes fit if as many objects, and the
// same part of the bytes, are kept back.
func (p Profile) room(objects, bytes, keep int) bool {
	return objects <= p.Objects-keep &&
		(p.StoreBytes == 0 || bytes <= p.StoreBytes-p.StoreBytes*keep/p.Objects)
}
