// SPDX-License-Identifier: Apache-2.0

package format

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
	// StoreKeyBytes is the length of a store key.
	StoreKeyBytes = 32
	// RecipientToken is the kind of a key pair that a token generated and never gives
	// away.
	RecipientToken = 1

	publicKeyBytes  = 65 // SEC 1, uncompressed
	keyringTagBytes = sha256.Size
)

// StoreKey is a key that segments are sealed under, by way of derived ones.
type StoreKey struct {
	ID     uint32
	Secret []byte // StoreKeyBytes
}

func (k StoreKey) derive(purpose string) ([]byte, error) {
	return hkdf.Expand(sha256.New, k.Secret, purpose, StoreKeyBytes)
}

// NewStoreKey extracts a key from random bytes of all sources together, so that one
// of them may be weak.
func NewStoreKey(id uint32, random []byte) (StoreKey, error) {
	secret, err := hkdf.Extract(sha256.New, random, []byte("j5t.io/hsm store key"))
	return StoreKey{ID: id, Secret: secret}, err
}

// WipeKeys overwrites keys that are not needed any more.
func WipeKeys(keys []StoreKey) {
	for _, k := range keys {
		clear(k.Secret)
	}
}

// Keyring holds the store's keys, sealed to each of its recipients. The one of
// the highest generation counts.
type Keyring struct {
	Generation uint32
	Store      StoreID
	Recipients []Recipient // at most 255

	tag    []byte // over all before it, with a key derived from the last store key
	signed []byte
}

// Recipient is a public key, and the store keys sealed to it by HPKE.
type Recipient struct {
	Kind      byte
	PublicKey []byte // P-256, SEC 1, uncompressed
	Sealed    []byte
}

// KeyringLabel is CKA_LABEL of a keyring.
func KeyringLabel(generation uint32) string { return fmt.Sprintf("keyring-%08x", generation) }

// ParseKeyringLabel reads what KeyringLabel returns, and nothing else.
func ParseKeyringLabel(label string) (generation uint32, ok bool) {
	rest, ok := strings.CutPrefix(label, "keyring-")
	if !ok {
		return 0, false
	}
	g, err := strconv.ParseUint(rest, 16, 32)
	return uint32(g), err == nil && label == KeyringLabel(uint32(g))
}

func (k *Keyring) prefix() []byte {
	b := appendPrefix(nil, kindKeyring)
	b = binary.BigEndian.AppendUint32(b, k.Generation)
	return append(b, k.Store[:]...)
}

// info binds what is sealed to its place.
func (k *Keyring) info(kind byte) []byte {
	return append(append([]byte("j5t.io/hsm keyring"), k.prefix()...), kind)
}

// Add seals the keys to a recipient.
func (k *Keyring) Add(kind byte, public *ecdh.PublicKey, keys []StoreKey) error {
	to, err := hpke.NewDHKEMPublicKey(public)
	if err != nil {
		return err
	}
	var plain []byte
	for _, key := range keys {
		plain = binary.BigEndian.AppendUint32(plain, key.ID)
		plain = append(plain, key.Secret...)
	}
	sealed, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), k.info(kind), plain)
	clear(plain)
	if err != nil {
		return err
	}
	k.Recipients = append(k.Recipients, Recipient{Kind: kind, PublicKey: public.Bytes(), Sealed: sealed})
	return nil
}

// Encode signs the keyring and returns it as it lies on the token.
func (k *Keyring) Encode(keys []StoreKey) ([]byte, error) {
	b := append(k.prefix(), byte(len(k.Recipients)))
	for _, r := range k.Recipients {
		b = append(b, r.Kind)
		b = append(b, r.PublicKey...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.Sealed)))
		b = append(b, r.Sealed...)
	}
	tag, err := keyringTag(b, keys)
	return append(b, tag...), err
}

// DecodeKeyring reads a keyring without opening it: whether its tag is right is seen
// by Open only.
func DecodeKeyring(b []byte) (*Keyring, error) {
	if err := checkPrefix(b, kindKeyring); err != nil {
		return nil, err
	}
	d := decoder{rest: b[prefixBytes:]}
	k := &Keyring{}
	if g := d.bytes(4); d.err == nil {
		k.Generation = binary.BigEndian.Uint32(g)
	}
	copy(k.Store[:], d.bytes(uint64(len(k.Store))))
	count := d.bytes(1)
	if d.err != nil {
		return nil, d.err
	}
	for range count[0] {
		head := d.bytes(1 + publicKeyBytes + 2)
		if d.err != nil {
			return nil, d.err
		}
		r := Recipient{Kind: head[0], PublicKey: bytes.Clone(head[1 : 1+publicKeyBytes])}
		r.Sealed = bytes.Clone(d.bytes(uint64(binary.BigEndian.Uint16(head[1+publicKeyBytes:]))))
		k.Recipients = append(k.Recipients, r)
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

// Recipient finds the entry of a public key.
func (k *Keyring) Recipient(public *ecdh.PublicKey) (Recipient, bool) {
	for _, r := range k.Recipients {
		if bytes.Equal(r.PublicKey, public.Bytes()) {
			return r, true
		}
	}
	return Recipient{}, false
}

// Open unseals the keys for a recipient, by one ECDH of its key pair, and
// checks that whoever wrote the keyring knew them. Of a pair on a token, the error may
// be the token's. The caller wipes the keys with WipeKeys.
func (k *Keyring) Open(r Recipient, pair ecdh.KeyExchanger) ([]StoreKey, error) {
	private, err := hpke.NewDHKEMPrivateKey(pair)
	if err != nil {
		return nil, err
	}
	plain, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), k.info(r.Kind), r.Sealed)
	if err != nil {
		return nil, err
	}
	var keys []StoreKey
	for rest := plain; len(rest) > 0; rest = rest[4+StoreKeyBytes:] {
		if len(rest) < 4+StoreKeyBytes {
			return nil, errShort
		}
		keys = append(keys, StoreKey{ID: binary.BigEndian.Uint32(rest), Secret: rest[4 : 4+StoreKeyBytes]})
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

// KnownTo reports whether whoever wrote the keyring knew one of these keys: then
// they follow upon it.
func (k *Keyring) KnownTo(keys []StoreKey) bool {
	return slices.ContainsFunc(keys, func(key StoreKey) bool {
		tag, err := keyringTag(k.signed, []StoreKey{key})
		return err == nil && hmac.Equal(tag, k.tag)
	})
}

func keyringTag(b []byte, keys []StoreKey) ([]byte, error) {
	key, err := keys[len(keys)-1].derive("j5t.io/hsm keyring")
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(b)
	clear(key)
	return mac.Sum(nil), nil
}
