// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"testing"
)

func sampleKeyring(t testing.TB) (encoded []byte, pairs []*ecdh.PrivateKey, keys []StoreKey) {
	t.Helper()
	k := &Keyring{Generation: 3, Store: StoreID{4, 5, 6}}
	keys = []StoreKey{
		{ID: 1, Secret: bytes.Repeat([]byte{1}, StoreKeyBytes)},
		{ID: 2, Secret: bytes.Repeat([]byte{2}, StoreKeyBytes)},
	}
	for range 2 {
		pair, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Add(RecipientToken, pair.PublicKey(), keys); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, pair)
	}
	encoded, err := k.Encode(keys)
	if err != nil {
		t.Fatal(err)
	}
	return encoded, pairs, keys
}

func openKeyring(encoded []byte, pair *ecdh.PrivateKey) ([]StoreKey, error) {
	k, err := DecodeKeyring(encoded)
	if err != nil {
		return nil, err
	}
	r, ok := k.Recipient(pair.PublicKey())
	if !ok {
		return nil, errShort
	}
	return k.Open(r, pair)
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
			if keys[i].ID != want[i].ID || !bytes.Equal(keys[i].Secret, want[i].Secret) {
				t.Errorf("key %d came back changed", i)
			}
		}
	}
	other, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openKeyring(encoded, other); err == nil {
		t.Error("another one opened the keyring")
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
