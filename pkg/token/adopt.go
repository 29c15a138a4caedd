// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/format"
)

// Adoption makes the store that is on a token into another one: that of the
// cluster that the token was brought to. The records stay, each with what Strip
// leaves of its metadata, and so do the segments; a keyring of the next generation
// names the new store. From then on an agent of the old cluster finds the token
// foreign: a store never has two owners.
//
// It is what a person asks for, by the id of the store. To see before what it
// would strip, open the token with Options.StoreID set to that id and no Log,
// which changes nothing, and call Strip for all Records.
type Adoption struct {
	// From is the id of the store to adopt, in hex. Options.StoreID is the id that
	// it gets; the caller makes it with NewStoreID and keeps it before Open. If the
	// token holds StoreID, it was adopted before, and is opened as it is.
	From string
	// Strip returns the metadata of a record without what belongs to the cluster
	// that it came from. It is called again after a crash.
	Strip func(Record) (meta []byte, err error)
	// Revision gives the next revision, above the one given to it.
	Revision func(above uint64) uint64
}

// adopt strips the records by ordinary commits, then names the store anew.
// Stopped anywhere, the next Open with the same options goes on.
func (s *Store) adopt(o Options) error {
	id, err := format.ParseStoreID(o.StoreID)
	if err != nil {
		return &Error{Reason: Invalid, Message: fmt.Sprintf("store %s cannot be adopted", o.Adopt.From), Err: err}
	}
	for _, r := range slices.Collect(s.Records()) {
		meta, err := o.Adopt.Strip(r)
		if err != nil {
			return fmt.Errorf("stripping record %q: %w", r.Key, err)
		}
		if bytes.Equal(meta, r.Meta) {
			continue
		}
		if r.Data, err = s.Data(r.Key); err != nil {
			return err
		}
		r.Meta = meta
		err = s.replace(r, o.Adopt)
		clear(r.Data)
		if err != nil {
			return fmt.Errorf("stripping record %q: %w", r.Key, err)
		}
	}
	return s.rename(id)
}

// replace commits a record, and makes space for it and for the next one.
func (s *Store) replace(r Record, a *Adoption) error {
	revision := func() uint64 { return a.Revision(s.attempted) }
	for {
		r.Revision = revision()
		err := s.Commit([]Change{{Record: r}})
		if err != nil && ReasonOf(err) != Full {
			return err
		}
		compacted := false
		for more := true; more; compacted = compacted || more {
			var failure error
			if more, failure = s.compactStep(revision); failure != nil {
				return failure
			}
		}
		if err == nil || !compacted {
			return err
		}
	}
}

// rename makes the keyring of the store's new name: with the keys that it had,
// for the segments that there are, and a new one for those to come.
func (s *Store) rename(id format.StoreID) error {
	pair, err := s.dev.KeyPair(format.KeyPairLabel)
	if err != nil {
		return fmt.Errorf("looking for the key pair %q: %w", format.KeyPairLabel, err)
	}
	old, err := format.DecodeKeyring(s.keyring)
	if err != nil {
		return orInternal(err, "decoding the store's own keyring")
	}
	keys, err := openFor(pair, old)
	switch {
	case pkcs11.ClassOf(err) != pkcs11.ClassNone:
		return fmt.Errorf("opening the keyring: %w", err)
	case err != nil:
		return corruptObject(format.KeyringLabel(old.Generation), err)
	}
	key, err := newStoreKey(s.dev, keys[len(keys)-1].ID+1)
	if err != nil {
		return err
	}
	renamed, err := createKeyring(s.dev, s.log, &format.Keyring{Generation: old.Generation + 1, Store: id}, pair, append(keys, key))
	if err != nil {
		return err
	}
	s.space = s.space.add(space{1, len(renamed.keyring)})
	s.sealer, s.keyring = renamed.sealer, renamed.keyring
	return nil
}
