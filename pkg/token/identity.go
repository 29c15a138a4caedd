// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// keyPairLabel is CKA_LABEL of the key pair that the store keys are sealed to.
const keyPairLabel = "j5t.io/hsm store key"

// identify decides which store the token holds, and opens its keys:
//
//	keyring  segments  StoreID  Provision
//	none     none      empty    yes        a store is made
//	none     none      any      any        Blank
//	none     some      any      any        Corrupt: never made anew
//	ours     none      empty    yes        made just now, by a run that was cut short
//	ours     any       same     any        opened
//	ours     any       other    any        Foreign
//	sealed to other keys only   any        Foreign
//	none that can be read       any        Corrupt
func (s *Store) identify(o Options, inv *inventory) error {
	if len(inv.keyrings) == 0 {
		switch {
		case inv.segments > 0:
			return errorf(Corrupt, "the token holds %d segments of a store, and no keyring: they cannot be opened. Nothing was changed; restore the keyring, or erase the token", inv.segments)
		case o.StoreID != "":
			return errorf(Blank, "the token is blank, but store %s was on it. Insert the right token, or let the agent forget that store to begin a new one", o.StoreID)
		case !o.Provision:
			return errorf(Blank, "the token holds no store. Ask for provisioning to make one")
		}
		return s.provision()
	}

	pair, err := s.dev.KeyPair(keyPairLabel)
	if err != nil {
		return fmt.Errorf("looking for the key pair %q: %w", keyPairLabel, err)
	}
	var refused error
	for _, object := range inv.keyrings {
		var k *keyring
		var keys []storeKey
		k, keys, err = s.readKeyring(object, pair, o, inv)
		switch ReasonOf(err) {
		case Foreign, Corrupt:
			refused = cmp.Or(refused, err)
			continue
		}
		if err == nil {
			s.keys, err = newSealer(k.store, keys)
			wipe(keys)
		}
		return err
	}
	return refused
}

// readKeyring reads a keyring and unseals its keys.
func (s *Store) readKeyring(object pkcs11.Object, pair ecdh.KeyExchanger, o Options, inv *inventory) (*keyring, []storeKey, error) {
	value, err := s.dev.Value(object.Handle)
	if err != nil {
		return nil, nil, unreadable(s.dev, object, err)
	}
	k, err := decodeKeyring(value)
	if err == nil && object.Label != keyringLabel(k.generation) {
		err = fmt.Errorf("it is of generation %d", k.generation)
	}
	if err != nil {
		return nil, nil, corruptObject(object.Label, err)
	}
	cutShort := o.StoreID == "" && o.Provision && inv.segments == 0
	switch {
	case o.StoreID == k.store.String() || cutShort:
	case o.StoreID == "":
		return nil, nil, errorf(Foreign, "the token holds store %s, and this agent has served none yet. To serve that store start the agent with --store-id=%s; to begin a new one erase the token", k.store, k.store)
	default:
		return nil, nil, errorf(Foreign, "the token holds store %s, and this agent serves store %s. Insert the right token, or adopt the one that is there", k.store, o.StoreID)
	}
	var r recipient
	known := pair != nil
	if known {
		r, known = k.recipient(pair.PublicKey())
	}
	if !known {
		return nil, nil, errorf(Foreign, "the token holds store %s, which is not sealed to its key: the objects of another token were copied onto it, or its keys were erased. Nothing was changed", k.store)
	}
	keys, err := k.open(r, pair)
	var deviceError *pkcs11.Error
	switch {
	case errors.As(err, &deviceError):
		return nil, nil, fmt.Errorf("opening keyring %q: %w", object.Label, err)
	case err != nil:
		return nil, nil, corruptObject(object.Label, err)
	}
	s.count(len(value))
	return k, keys, nil
}

// provision makes a new store on a blank token. Cut short after the key pair,
// the next run goes on with that pair; creating the keyring is what makes the
// token a store.
func (s *Store) provision() error {
	pair, err := s.dev.KeyPair(keyPairLabel)
	if err != nil {
		return fmt.Errorf("looking for the key pair %q: %w", keyPairLabel, err)
	}
	if pair == nil {
		if pair, err = s.dev.GenerateKeyPair(keyPairLabel); err != nil {
			return fmt.Errorf("generating the key pair %q: %w", keyPairLabel, err)
		}
	}
	random, err := s.dev.Random(storeKeyBytes)
	if err != nil {
		return fmt.Errorf("asking the token for random bytes: %w", err)
	}
	// Both sources, so that one of them may be weak.
	random = slices.Grow(random, storeKeyBytes)[:2*storeKeyBytes]
	rand.Read(random[storeKeyBytes:])
	secret, err := hkdf.Extract(sha256.New, random, []byte("j5t.io/hsm store key"))
	clear(random)
	if err != nil {
		return err
	}
	keys := []storeKey{{id: 1, secret: secret}}
	defer wipe(keys)

	k := &keyring{generation: 1}
	rand.Read(k.store[:])
	if err := k.add(recipientToken, pair.PublicKey(), keys); err != nil {
		return fmt.Errorf("sealing the store key to the token's key pair: %w", err)
	}
	value, err := k.encode(keys)
	if err != nil {
		return err
	}
	if _, err := s.dev.Create(keyringLabel(k.generation), application, value); err != nil {
		return fmt.Errorf("creating the keyring: %w", err)
	}
	s.objects++
	s.count(len(value))
	s.keys, err = newSealer(k.store, keys)
	return err
}
