// SPDX-License-Identifier: Apache-2.0

// Package format owns the bytes of a store, format version 1: segments, records,
// descriptions and the keyring (docs/token-format.md). It never touches a token or
// a file, and imports the standard library only, so that a workstation without
// PKCS#11 and cgo can read an image of a store.
//
// To read one: DecodeKeyring, Keyring.Open with the private key of one of its
// recipients, NewSealer with these keys; then for each commit, Sealer.Open for each
// of its segments, and DecodePayload for the pieces joined in the order of their
// parts.
//
// A decoder's error says that the bytes are not of this format, or not authentic,
// and in what way. It never depends on anything but the bytes and the keys.
// Decoders take any input: what they allocate is bounded by the length of the
// input, and by MaxDescriptionBytes for each record.
package format

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
)

const (
	// Application is CKA_APPLICATION of all objects of a store.
	Application = "j5t.io/hsm"
	// KeyPairLabel is CKA_LABEL of the key pair that a token's keyring is sealed to.
	KeyPairLabel = "j5t.io/hsm store key"

	// MaxKeyBytes limits keys and addresses.
	MaxKeyBytes = 1024
	// MaxDescriptionBytes bounds what a few compressed bytes can grow to.
	MaxDescriptionBytes = 4 << 20
	// MaxMetaBytes limits the metadata of a record.
	MaxMetaBytes = MaxDescriptionBytes - 2*(MaxKeyBytes+2)
	// MaxParts limits the segments of a commit.
	MaxParts = 1<<16 - 1

	magic       = "J5TH"
	version     = 1
	kindSegment = 1
	kindKeyring = 2
	prefixBytes = 6
)

// StoreID names a store for its life.
type StoreID [16]byte

func (id StoreID) String() string { return hex.EncodeToString(id[:]) }

// ParseStoreID reads what String returns.
func ParseStoreID(text string) (id StoreID, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("store id %q is not %d hex digits", text, 2*len(id))
	}
	return StoreID(b), nil
}

// appendPrefix adds the bytes that all objects of a store begin with.
func appendPrefix(b []byte, kind byte) []byte { return append(append(b, magic...), version, kind) }

func checkPrefix(b []byte, kind byte) error {
	if len(b) < prefixBytes || !bytes.HasPrefix(b, []byte(magic)) {
		return errors.New("not an object of this format")
	}
	if b[4] != version || b[5] != kind {
		return fmt.Errorf("format version %d, kind %d; expected %d and %d", b[4], b[5], version, kind)
	}
	return nil
}
