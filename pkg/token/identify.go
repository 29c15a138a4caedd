// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"crypto/ecdh"
	"errors"
	"fmt"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/format"
)

// identity is a store whose keys the token's key pair opened.
type identity struct {
	sealer  *format.Sealer
	keyring []byte // as on the token
	lost    bool   // the token does not hold the keyring
}

// openKeyring is a keyring that the token's key pair opened.
type openKeyring struct {
	*format.Keyring
	value  []byte
	keys   []format.StoreKey
	object *pkcs11.Object // nil: the token does not hold it, the log does
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
//	none, but in the log        same       opened, and written again
//	of a later generation and of another store: Foreign, it was adopted
func (p *opener) identify() (*identity, error) {
	pair, err := p.dev.KeyPair(format.KeyPairLabel)
	if err != nil {
		return nil, fmt.Errorf("looking for the key pair %q: %w", format.KeyPairLabel, err)
	}
	found, foreign, err := p.findKeyring(pair)
	if err != nil && ReasonOf(err) == 0 {
		return nil, err
	}
	if logged := p.loggedKeyring(pair); logged != nil &&
		(found == nil || found.Generation < logged.Generation) && (foreign == 0 || foreign < logged.Generation) {
		found, err = logged, nil
	}
	o := p.options
	switch {
	case found != nil && found.Generation < foreign:
		return nil, err
	case found != nil:
		return p.use(found)
	case err != nil:
		return nil, err
	case p.listing.segments > 0:
		return nil, errorf(Corrupt, "the token holds %d segments of a store, and no keyring: they cannot be opened. Nothing was changed; restore the keyring, or erase the token", p.listing.segments)
	case o.StoreID != "":
		return nil, errorf(Blank, "the token is blank, but store %s was on it. Insert the right token, or let the agent forget that store to begin a new one", o.StoreID)
	case !o.Provision:
		return nil, errorf(Blank, "the token holds no store. Ask for provisioning to make one")
	}
	return p.provision(pair)
}

// findKeyring is the keyring on the token that counts. If there is none, err is
// why. foreign is the generation of the latest one of another store that the
// key pair opens, and err then is Foreign.
func (p *opener) findKeyring(pair ecdh.KeyExchanger) (found *openKeyring, foreign uint32, err error) {
	for _, object := range p.listing.keyrings {
		k, wanted, refused := p.readKeyring(object, pair)
		switch {
		case refused != nil && ReasonOf(refused) == 0:
			return nil, 0, refused
		case refused != nil:
			err = cmp.Or(err, refused)
		case wanted:
			return k, foreign, err
		default:
			format.WipeKeys(k.keys)
			foreign = max(foreign, k.Generation)
			err = p.foreignStore(k.Store)
		}
	}
	return nil, foreign, err
}

// readKeyring reads a keyring and unseals its keys; wanted reports whether it is of
// the store that is to be opened.
func (p *opener) readKeyring(object pkcs11.Object, pair ecdh.KeyExchanger) (found *openKeyring, wanted bool, err error) {
	value, err := p.values.of(object)
	if err != nil {
		return nil, false, err
	}
	k, err := format.DecodeKeyring(value)
	if err == nil && object.Label != format.KeyringLabel(k.Generation) {
		err = fmt.Errorf("it is of generation %d", k.Generation)
	}
	if err != nil {
		return nil, false, corruptObject(object.Label, err)
	}
	o := p.options
	cutShort := o.StoreID == "" && o.Provision && p.listing.segments == 0
	wanted = o.StoreID == k.Store.String() || cutShort || o.Adopt != nil && o.Adopt.From == k.Store.String()
	keys, err := openFor(pair, k)
	switch {
	case pkcs11.ClassOf(err) != pkcs11.ClassNone:
		return nil, false, fmt.Errorf("opening keyring %q: %w", object.Label, err)
	case err != nil && !wanted:
		return nil, false, p.foreignStore(k.Store)
	case errors.Is(err, errNoRecipient):
		return nil, false, errorf(Foreign, "the token holds store %s, which is not sealed to its key: the objects of another token were copied onto it, or its keys were erased. Nothing was changed", k.Store)
	case err != nil:
		return nil, false, corruptObject(object.Label, err)
	}
	return &openKeyring{Keyring: k, value: value, keys: keys, object: &object}, wanted, nil
}

var errNoRecipient = errors.New("the keyring is not sealed to the token's key pair")

// openFor unseals a keyring's keys with the token's key pair, if it has one.
func openFor(pair ecdh.KeyExchanger, k *format.Keyring) ([]format.StoreKey, error) {
	if pair == nil {
		return nil, errNoRecipient
	}
	r, ok := k.Recipient(pair.PublicKey())
	if !ok {
		return nil, errNoRecipient
	}
	return k.Open(r, pair)
}

func (p *opener) foreignStore(found format.StoreID) error {
	if p.options.StoreID == "" {
		return errorf(Foreign, "the token holds store %s, and this agent has served none yet. To serve that store start the agent with --store-id=%s; to begin a new one erase the token", found, found)
	}
	return errorf(Foreign, "the token holds store %s, and this agent serves store %s. Insert the right token, or adopt the one that is there", found, p.options.StoreID)
}

// loggedKeyring is the one in the log, if it can be opened and is of the store that
// is to be opened; nil if it is on the token as well. A store whose id was never
// kept is made whole only while it is empty.
func (p *opener) loggedKeyring(pair ecdh.KeyExchanger) *openKeyring {
	o, r := p.options, p.replay
	cutShort := o.StoreID == "" && o.Provision && p.listing.segments == 0 && len(r.Commits) == 0
	if r.Keyring == nil || o.StoreID != r.Store.String() && !cutShort {
		return nil
	}
	k, err := format.DecodeKeyring(r.Keyring)
	if err != nil {
		return nil
	}
	for _, object := range p.listing.keyrings {
		if value, err := p.values.of(object); err == nil && string(value) == string(r.Keyring) {
			return nil
		}
	}
	keys, err := openFor(pair, k)
	if err != nil {
		return nil
	}
	return &openKeyring{Keyring: k, value: r.Keyring, keys: keys}
}

// use makes a keyring the store's. Of the others on the token, those that it
// follows, and a torn one that it replaces, are left to the collector.
func (p *opener) use(found *openKeyring) (*identity, error) {
	defer format.WipeKeys(found.keys)
	for _, object := range p.listing.keyrings {
		if found.object != nil && object.Handle == found.object.Handle {
			p.space.bytes += len(found.value)
			continue
		}
		value, err := p.values.of(object)
		k, invalid := format.DecodeKeyring(value)
		torn := found.object == nil && object.Label == format.KeyringLabel(found.Generation) && (err != nil || invalid != nil || k.Store == found.Store)
		former := err == nil && invalid == nil && k.Generation <= found.Generation && k.KnownTo(found.keys)
		if torn || former {
			p.discard(0, false, segmentObject{Object: object})
		} else {
			p.quarantine(object)
		}
	}
	sealer, err := format.NewSealer(found.Store, found.keys)
	if err != nil {
		return nil, orInternal(err, "making the ciphers of the store's keys")
	}
	return &identity{sealer: sealer, keyring: found.value, lost: found.object == nil}, nil
}
