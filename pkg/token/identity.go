// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/wal"
)

// keyPairLabel is CKA_LABEL of the key pair that the store keys are sealed to.
const keyPairLabel = "j5t.io/hsm store key"

// NewStoreID names a store that is going to be made by adoption, in hex.
func NewStoreID() string {
	var id storeID
	rand.Read(id[:]) // never fails
	return id.String()
}

func parseStoreID(text string) (id storeID, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("store id %q is not %d hex digits", text, 2*len(id))
	}
	return storeID(b), nil
}

// foundKeyring is a keyring that the token's key pair opened.
type foundKeyring struct {
	*keyring
	value  []byte
	keys   []storeKey
	object *pkcs11.Object // nil: the token does not hold it, the shadow does
}

// identify decides which store the token holds, and opens its keys.
//
//	keyring  segments  StoreID  Provision
//	none     none      empty    yes        a store is made
//	none     none      any      any        Blank
//	none     some      any      any        Corrupt: never made anew
//	ours     none      empty    yes        made just now, by a run that was cut short
//	ours     any       same     any        opened
//	ours     any       other    any        Foreign; opened if it is to be adopted
//	sealed to other keys only   any        Foreign
//	none that can be read       any        Corrupt
//	none, but in the shadow     same       opened, and written again
//	of a later generation and of another store: Foreign, it was adopted
func (s *Store) identify(o Options, inv *inventory, m *memory) error {
	pair, err := s.dev.KeyPair(keyPairLabel)
	if err != nil {
		return fmt.Errorf("looking for the key pair %q: %w", keyPairLabel, err)
	}
	found, stranger, err := s.findKeyring(o, inv, pair)
	if err != nil && ReasonOf(err) == 0 {
		return err
	}
	if remembered := s.rememberedKeyring(o, inv, m, pair); remembered != nil &&
		(found == nil || found.generation < remembered.generation) && (stranger == 0 || stranger < remembered.generation) {
		found, err = remembered, nil
	}
	switch {
	case found != nil && found.generation < stranger:
		return err
	case found != nil:
		return s.use(found, inv)
	case err != nil:
		return err
	case inv.segments > 0:
		return errorf(Corrupt, "the token holds %d segments of a store, and no keyring: they cannot be opened. Nothing was changed; restore the keyring, or erase the token", inv.segments)
	case o.StoreID != "":
		return errorf(Blank, "the token is blank, but store %s was on it. Insert the right token, or let the agent forget that store to begin a new one", o.StoreID)
	case !o.Provision:
		return errorf(Blank, "the token holds no store. Ask for provisioning to make one")
	}
	if s.shadow != nil {
		*m, s.findings.Log = *m.forget(), LogNew
	}
	return s.provision(pair)
}

// findKeyring is the keyring on the token that counts. If there is none, err is
// why. stranger is the generation of the latest one of another store that the
// key pair opens, and err then is Foreign.
func (s *Store) findKeyring(o Options, inv *inventory, pair ecdh.KeyExchanger) (found *foundKeyring, stranger uint32, err error) {
	for _, object := range inv.keyrings {
		k, wanted, refused := s.readKeyring(object, pair, o, inv)
		switch {
		case refused != nil && ReasonOf(refused) == 0:
			return nil, 0, refused
		case refused != nil:
			err = cmp.Or(err, refused)
		case wanted:
			return k, stranger, err
		default:
			wipe(k.keys)
			stranger = max(stranger, k.generation)
			err = foreignStore(o, k.store)
		}
	}
	return nil, stranger, err
}

// readKeyring reads a keyring and unseals its keys; wanted tells that it is of
// the store that is to be opened.
func (s *Store) readKeyring(object pkcs11.Object, pair ecdh.KeyExchanger, o Options, inv *inventory) (found *foundKeyring, wanted bool, err error) {
	value, err := s.values.of(object)
	if err != nil {
		return nil, false, err
	}
	k, err := decodeKeyring(value)
	if err == nil && object.Label != keyringLabel(k.generation) {
		err = fmt.Errorf("it is of generation %d", k.generation)
	}
	if err != nil {
		return nil, false, corruptObject(object.Label, err)
	}
	cutShort := o.StoreID == "" && o.Provision && inv.segments == 0
	wanted = o.StoreID == k.store.String() || cutShort || o.Adopt != nil && o.Adopt.From == k.store.String()
	keys, err := openFor(pair, k)
	switch {
	case pkcs11.ClassOf(err) != pkcs11.ClassNone:
		return nil, false, fmt.Errorf("opening keyring %q: %w", object.Label, err)
	case err != nil && !wanted:
		return nil, false, foreignStore(o, k.store)
	case errors.Is(err, errNoRecipient):
		return nil, false, errorf(Foreign, "the token holds store %s, which is not sealed to its key: the objects of another token were copied onto it, or its keys were erased. Nothing was changed", k.store)
	case err != nil:
		return nil, false, corruptObject(object.Label, err)
	}
	return &foundKeyring{keyring: k, value: value, keys: keys, object: &object}, wanted, nil
}

var errNoRecipient = errors.New("the keyring is not sealed to the token's key pair")

// openFor unseals a keyring's keys with the token's key pair, if it has one.
func openFor(pair ecdh.KeyExchanger, k *keyring) ([]storeKey, error) {
	if pair == nil {
		return nil, errNoRecipient
	}
	r, ok := k.recipient(pair.PublicKey())
	if !ok {
		return nil, errNoRecipient
	}
	return k.open(r, pair)
}

func foreignStore(o Options, found storeID) error {
	if o.StoreID == "" {
		return errorf(Foreign, "the token holds store %s, and this agent has served none yet. To serve that store start the agent with --store-id=%s; to begin a new one erase the token", found, found)
	}
	return errorf(Foreign, "the token holds store %s, and this agent serves store %s. Insert the right token, or adopt the one that is there", found, o.StoreID)
}

// rememberedKeyring is the one in the shadow, if it can be opened and is of the
// store that is to be opened; nil if it is on the token as well. A store that was
// never remembered by its id is made whole only while it is empty.
func (s *Store) rememberedKeyring(o Options, inv *inventory, m *memory, pair ecdh.KeyExchanger) *foundKeyring {
	cutShort := o.StoreID == "" && o.Provision && inv.segments == 0 && len(m.units) == 0
	if m.keyring == nil || o.StoreID != m.store.String() && !cutShort {
		return nil
	}
	k, err := decodeKeyring(m.keyring)
	if err != nil {
		return nil
	}
	for _, object := range inv.keyrings {
		if value, err := s.values.of(object); err == nil && string(value) == string(m.keyring) {
			return nil
		}
	}
	keys, err := openFor(pair, k)
	if err != nil {
		return nil
	}
	return &foundKeyring{keyring: k, value: m.keyring, keys: keys}
}

// use makes a keyring the store's. Of the others on the token, those that it
// follows, and a torn one that it replaces, are left to CollectGarbage.
func (s *Store) use(found *foundKeyring, inv *inventory) error {
	defer wipe(found.keys)
	s.keyring, s.lostKeyring = found.value, found.object == nil
	for _, object := range inv.keyrings {
		if found.object != nil && object.Handle == found.object.Handle {
			s.count(len(found.value))
			continue
		}
		value, err := s.values.of(object)
		k, invalid := decodeKeyring(value)
		torn := found.object == nil && object.Label == keyringLabel(found.generation) && (err != nil || invalid != nil || k.store == found.store)
		former := err == nil && invalid == nil && k.generation <= found.generation && k.knownTo(found.keys)
		if torn || former {
			s.discard(0, false, []numberedObject{{Object: object}})
		} else {
			s.quarantine(object)
		}
	}
	var err error
	s.keys, err = newSealer(found.store, found.keys)
	return orInternal(err, "making the ciphers of the store's keys")
}

// provision makes a new store on a blank token. Cut short after the key pair,
// the next run goes on with that pair; creating the keyring is what makes the
// token a store.
func (s *Store) provision(pair ecdh.KeyExchanger) (err error) {
	if pair == nil {
		if pair, err = s.dev.GenerateKeyPair(keyPairLabel); err != nil {
			return fmt.Errorf("generating the key pair %q: %w", keyPairLabel, err)
		}
	}
	k := &keyring{generation: 1}
	rand.Read(k.store[:]) // never fails
	key, err := s.newStoreKey(1)
	if err != nil {
		return err
	}
	if s.shadow != nil { // It may be full of another store.
		if err := s.shadow.Replace([]wal.Entry{reservedEntry(s.reserved)}); err != nil {
			return &Error{Reason: LogFailed, Message: "no store was made, for it could not be noted beside the token", Err: err}
		}
	}
	return s.createKeyring(k, pair, []storeKey{key})
}

// newStoreKey makes a key of both sources of randomness, so that one of them
// may be weak.
func (s *Store) newStoreKey(id uint32) (key storeKey, err error) {
	random, err := s.dev.Random(storeKeyBytes)
	if err != nil {
		return key, fmt.Errorf("asking the token for random bytes: %w", err)
	}
	random = slices.Grow(random, storeKeyBytes)[:2*storeKeyBytes]
	rand.Read(random[storeKeyBytes:]) // never fails
	secret, err := hkdf.Extract(sha256.New, random, []byte("j5t.io/hsm store key"))
	clear(random)
	return storeKey{id: id, secret: secret}, orInternal(err, "deriving a store key")
}

// createKeyring seals keys to the token's key pair, and makes the keyring the
// store's. It wipes the keys.
func (s *Store) createKeyring(k *keyring, pair ecdh.KeyExchanger, keys []storeKey) error {
	defer wipe(keys)
	if err := k.add(recipientToken, pair.PublicKey(), keys); err != nil {
		return orInternal(err, "sealing the store key to the token's key pair")
	}
	value, err := k.encode(keys)
	if err != nil {
		return orInternal(err, "encoding the keyring")
	}
	if err := s.note(wal.Entry{Kind: entryKeyring, Body: value}); err != nil {
		return &Error{Reason: LogFailed, Message: "the keyring was not created, for it could not be noted beside the token", Err: err}
	}
	if _, err := s.dev.Create(keyringLabel(k.generation), application, value); err != nil {
		return fmt.Errorf("creating the keyring: %w", err)
	}
	s.objects++
	s.count(len(value))
	s.keyring = value
	s.keys, err = newSealer(k.store, keys)
	return orInternal(err, "making the ciphers of the store's keys")
}
