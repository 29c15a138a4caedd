// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"testing"
)

func sampleKeyring(t testing.TB) (encoded []byte, pairs []*ecdh.PrivateKey, keys []storeKey) {
	t.Helper()
	k := &keyring{generation: 3, store: storeID{4, 5, 6}}
	keys = []storeKey{
		{id: 1, secret: bytes.Repeat([]byte{1}, storeKeyBytes)},
		{id: 2, secret: bytes.Repeat([]byte{2}, storeKeyBytes)},
	}
	for range 2 {
		pair, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.add(recipientToken, pair.PublicKey(), keys); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, pair)
	}
	encoded, err := k.encode(keys)
	if err != nil {
		t.Fatal(err)
	}
	return encoded, pairs, keys
}

func openKeyring(encoded []byte, pair *ecdh.PrivateKey) ([]storeKey, error) {
	k, err := decodeKeyring(encoded)
	if err != nil {
		return nil, err
	}
	r, ok := k.recipient(pair.PublicKey())
	if !ok {
		return nil, errShort
	}
	return k.open(r, pair)
}

func TestKeyringOpensForEachRecipient(t *testing.T) {
	t.Parallel()
	encoded, pairs, want := sampleKeyring(t)
	for _, pair := range pairs {
		keys, err := openKeyring(encoded, pair)
		if err != nil || len(keys) != len(want) {
			t.Fatalf("opening gave %d keys, %v", len(keys), err)
		}
		for i := range keys {
			if keys[i].id != want[i].id || !bytes.Equal(keys[i].secret, want[i].secret) {
				t.Errorf("key %d came back changed", i)
			}
		}
	}
	stranger, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openKeyring(encoded, stranger); err == nil {
		t.Error("a stranger opened the keyring")
	}
}

func TestKeyringIsAuthentic(t *testing.T) {
	t.Parallel()
	encoded, pairs, _ := sampleKeyring(t)
	for i := range encoded {
		changed := bytes.Clone(encoded)
		changed[i] ^= 1
		if _, err := openKeyring(changed, pairs[0]); err == nil {
			t.Errorf("the keyring was opened with byte %d changed", i)
		}
		if _, err := openKeyring(encoded[:i], pairs[0]); err == nil {
			t.Errorf("the first %d of %d bytes were opened", i, len(encoded))
		}
	}
	if _, err := openKeyring(append(encoded, 0), pairs[0]); err == nil {
		t.Error("a byte after the tag was read over")
	}
}
