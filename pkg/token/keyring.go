// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	storeKeyBytes   = 32
	publicKeyBytes  = 65 // SEC 1, uncompressed
	keyringTagBytes = sha256.Size

	// recipientToken is a key pair that a token generated and never gives away.
	recipientToken = 1
)

// storeKey is a key that segments are sealed under, by way of derived ones.
type storeKey struct {
	id     uint32
	secret []byte
}

func (k storeKey) derive(purpose string) ([]byte, error) {
	return hkdf.Expand(sha256.New, k.secret, purpose, storeKeyBytes)
}

// keyring holds the store's keys, sealed to each of its recipients. The one of
// the highest generation counts.
type keyring struct {
	generation uint32
	store      storeID
	recipients []recipient
	tag        []byte // over all before it, with a key derived from the last store key
	signed     []byte
}

// recipient is a public key, and the store keys sealed to it by HPKE.
type recipient struct {
	kind      byte
	publicKey []byte
	sealed    []byte
}

func keyringLabel(generation uint32) string { return fmt.Sprintf("keyring-%08x", generation) }

func parseKeyringLabel(label string) (generation uint32, ok bool) {
	rest, ok := strings.CutPrefix(label, "keyring-")
	if !ok {
		return 0, false
	}
	g, err := strconv.ParseUint(rest, 16, 32)
	return uint32(g), err == nil && label == keyringLabel(uint32(g))
}

func (k *keyring) prefix() []byte {
	b := append([]byte(magic), formatVersion, kindKeyring)
	b = binary.BigEndian.AppendUint32(b, k.generation)
	return append(b, k.store[:]...)
}

// info binds what is sealed to its place.
func (k *keyring) info(kind byte) []byte {
	return append(append([]byte("j5t.io/hsm keyring"), k.prefix()...), kind)
}

// add seals the keys to a recipient.
func (k *keyring) add(kind byte, public *ecdh.PublicKey, keys []storeKey) error {
	to, err := hpke.NewDHKEMPublicKey(public)
	if err != nil {
		return err
	}
	var plain []byte
	for _, key := range keys {
		plain = binary.BigEndian.AppendUint32(plain, key.id)
		plain = append(plain, key.secret...)
	}
	sealed, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), k.info(kind), plain)
	clear(plain)
	if err != nil {
		return err
	}
	k.recipients = append(k.recipients, recipient{kind: kind, publicKey: public.Bytes(), sealed: sealed})
	return nil
}

// encode signs the keyring and returns it as it lies on the token.
func (k *keyring) encode(keys []storeKey) ([]byte, error) {
	b := append(k.prefix(), byte(len(k.recipients)))
	for _, r := range k.recipients {
		b = append(b, r.kind)
		b = append(b, r.publicKey...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.sealed)))
		b = append(b, r.sealed...)
	}
	tag, err := keyringTag(b, keys)
	return append(b, tag...), err
}

func decodeKeyring(b []byte) (*keyring, error) {
	if err := checkPrefix(b, kindKeyring); err != nil {
		return nil, err
	}
	d := decoder{rest: b[6:]}
	k := &keyring{}
	if g := d.bytes(4); d.err == nil {
		k.generation = binary.BigEndian.Uint32(g)
	}
	copy(k.store[:], d.bytes(uint64(len(k.store))))
	count := d.bytes(1)
	if d.err != nil {
		return nil, d.err
	}
	for range count[0] {
		head := d.bytes(1 + publicKeyBytes + 2)
		if d.err != nil {
			return nil, d.err
		}
		r := recipient{kind: head[0], publicKey: bytes.Clone(head[1 : 1+publicKeyBytes])}
		r.sealed = bytes.Clone(d.bytes(uint64(binary.BigEndian.Uint16(head[1+publicKeyBytes:]))))
		k.recipients = append(k.recipients, r)
	}
	k.signed = bytes.Clone(b[:len(b)-len(d.rest)])
	k.tag = bytes.Clone(d.bytes(keyringTagBytes))
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%d bytes after its tag", len(d.rest))
	}
	if d.err != nil {
		return nil, d.err
	}
	return k, nil
}

// recipient finds the entry of a public key.
func (k *keyring) recipient(public *ecdh.PublicKey) (recipient, bool) {
	for _, r := range k.recipients {
		if bytes.Equal(r.publicKey, public.Bytes()) {
			return r, true
		}
	}
	return recipient{}, false
}

// open unseals the keys for a recipient, by one ECDH of its key pair, and
// checks that whoever wrote the keyring knew them.
func (k *keyring) open(r recipient, pair ecdh.KeyExchanger) ([]storeKey, error) {
	private, err := hpke.NewDHKEMPrivateKey(pair)
	if err != nil {
		return nil, err
	}
	plain, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), k.info(r.kind), r.sealed)
	if err != nil {
		return nil, err
	}
	var keys []storeKey
	for rest := plain; len(rest) > 0; rest = rest[4+storeKeyBytes:] {
		if len(rest) < 4+storeKeyBytes {
			return nil, errShort
		}
		keys = append(keys, storeKey{id: binary.BigEndian.Uint32(rest), secret: rest[4 : 4+storeKeyBytes]})
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no key")
	}
	tag, err := keyringTag(k.signed, keys)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(tag, k.tag) {
		return nil, errors.New("its tag is wrong: it was changed by someone who does not know the store's key")
	}
	return keys, nil
}

// knownTo tells whether whoever wrote the keyring knew one of these keys: then
// they follow upon it.
func (k *keyring) knownTo(keys []storeKey) bool {
	return slices.ContainsFunc(keys, func(key storeKey) bool {
		tag, err := keyringTag(k.signed, []storeKey{key})
		return err == nil && hmac.Equal(tag, k.tag)
	})
}

func keyringTag(b []byte, keys []storeKey) ([]byte, error) {
	key, err := keys[len(keys)-1].derive("j5t.io/hsm keyring")
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(b)
	clear(key)
	return mac.Sum(nil), nil
}

func wipe(keys []storeKey) {
	for _, k := range keys {
		clear(k.secret)
	}
}
