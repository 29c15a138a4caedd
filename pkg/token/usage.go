// SPDX-License-Identifier: Apache-2.0

package token

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
	// Superseded is the number of objects that CollectGarbage is going to destroy.
	Superseded int
	// SpareObjects and SpareBytes are of the objects, superseded ones included,
	// that hold no record. The next commits make space of them.
	SpareObjects, SpareBytes int
	// Foreign is the number of objects of other applications.
	Foreign int
	// Keys is the number of keys and certificates on the token, that of the store
	// included. Tokens that show only so many objects count them too.
	Keys int
	// Legacy is the number of objects of the older operator among Foreign.
	Legacy int
	// Quarantined is the number of objects of ours that are not of the store, and
	// are left alone.
	Quarantined int
	// Stuck is the number of objects that the token refuses to destroy. Their slots are
	// lost. RecoveryReport names them.
	Stuck int
	// Refused is the length of the object that the token refused although its profile
	// allows it, 0 if there was none since it took as much, or since one was destroyed.
	// While it is set nothing is free.
	Refused int
}

// Usage returns how full the token is.
func (s *Store) Usage() Usage {
	spare := s.spareSpace()
	limit := s.profile.limit(s.profile.Reserve)
	u := Usage{
		Profile: s.profile, Objects: s.space.objects, Bytes: s.space.bytes,
		Superseded:   s.garbage.space().objects,
		SpareObjects: spare.objects, SpareBytes: spare.bytes,
		FreeObjects: max(0, limit.objects-s.space.objects+spare.objects),
		Foreign:     s.foreign, Keys: s.keys, Legacy: len(s.legacy), Quarantined: len(s.report.Quarantined),
		Stuck: len(s.garbage.stuck), Refused: s.refused,
	}
	if s.refused > 0 {
		u.FreeObjects = 0
	}
	u.FreeBytes = u.FreeObjects * s.profile.SegmentBytes
	if s.profile.StoreBytes > 0 {
		u.FreeBytes = max(0, min(u.FreeBytes, limit.bytes-s.space.bytes+spare.bytes))
	}
	return u
}
