// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"slices"

	"j5t.io/hsm/pkg/token/format"
	"j5t.io/hsm/pkg/token/wal"
)

// NewStoreID names a store that is going to be made by adoption, in hex.
func NewStoreID() string {
	var id format.StoreID
	rand.Read(id[:]) // never fails
	return id.String()
}

// provision makes a new store on a blank token. Cut short after the key pair,
// the next run goes on with that pair; creating the keyring is what makes the
// token a store.
func (p *opener) provision(pair ecdh.KeyExchanger) (_ *identity, err error) {
	if pair == nil {
		if pair, err = p.dev.GenerateKeyPair(format.KeyPairLabel); err != nil {
			return nil, fmt.Errorf("generating the key pair %q: %w", format.KeyPairLabel, err)
		}
	}
	k := &format.Keyring{Generation: 1}
	rand.Read(k.Store[:]) // never fails
	key, err := newStoreKey(p.dev, 1)
	if err != nil {
		return nil, err
	}
	if log := p.options.Log; log != nil { // It may be full of another store.
		p.replay, p.report.Log = p.replay.Forget(), LogNew
		if err := log.Replace([]wal.Entry{wal.Reserved(p.replay.Reserved)}); err != nil {
			return nil, &Error{Reason: LogFailed, Message: "no store was made, for it could not be noted beside the token", Err: err}
		}
	}
	id, err := createKeyring(p.dev, p.options.Log, k, pair, []format.StoreKey{key})
	if err != nil {
		return nil, err
	}
	p.space = p.space.add(space{1, len(id.keyring)})
	return id, nil
}

// newStoreKey makes a key of both sources of randomness, so that one of them
// may be weak.
func newStoreKey(dev Device, id uint32) (key format.StoreKey, err error) {
	random, err := dev.Random(format.StoreKeyBytes)
	if err != nil {
		return key, fmt.Errorf("asking the token for random bytes: %w", err)
	}
	random = slices.Grow(random, format.StoreKeyBytes)[:2*format.StoreKeyBytes]
	rand.Read(random[format.StoreKeyBytes:]) // never fails
	key, err = format.NewStoreKey(id, random)
	clear(random)
	return key, orInternal(err, "deriving a store key")
}

// createKeyring seals keys to the token's key pair, and puts the keyring into the log
// and onto the token. It wipes the keys.
func createKeyring(dev Device, log *wal.Log, k *format.Keyring, pair ecdh.KeyExchanger, keys []format.StoreKey) (*identity, error) {
	defer format.WipeKeys(keys)
	if err := k.Add(format.RecipientToken, pair.PublicKey(), keys); err != nil {
		return nil, orInternal(err, "sealing the store key to the token's key pair")
	}
	value, err := k.Encode(keys)
	if err != nil {
		return nil, orInternal(err, "encoding the keyring")
	}
	sealer, err := format.NewSealer(k.Store, keys)
	if err != nil {
		return nil, orInternal(err, "making the ciphers of the store's keys")
	}
	if err := appendToLog(log, wal.Keyring(value)); err != nil {
		return nil, &Error{Reason: LogFailed, Message: "the keyring was not created, for it could not be noted beside the token", Err: err}
	}
	if _, err := dev.Create(format.KeyringLabel(k.Generation), format.Application, value); err != nil {
		return nil, fmt.Errorf("creating the keyring: %w", err)
	}
	return &identity{sealer: sealer, keyring: value}, nil
}
