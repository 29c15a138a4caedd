// SPDX-License-Identifier: Apache-2.0

package mvcc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"j5t.io/hsm/pkg/memlock"
)

// Sealed is data of one version, encrypted. Only the store that sealed it can open it.
type Sealed []byte

// memoryCipher encrypts data for the time that it stays in memory, so that
// no value lies there in the clear. Its key dies with the process.
type memoryCipher struct{ aead cipher.AEAD }

func newMemoryCipher() (memoryCipher, error) {
	key := make([]byte, 32)
	rand.Read(key) // Never fails (crypto/rand).
	block, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return memoryCipher{}, fmt.Errorf("make key of the history: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return memoryCipher{}, fmt.Errorf("make key of the history: %w", err)
	}
	return memoryCipher{aead}, nil
}

func (c memoryCipher) lock() error { return memlock.Lock(c.aead) }

func (c memoryCipher) seal(v Version, data []byte) Sealed {
	return c.aead.Seal(nil, nil, data, v.additionalData()) //nolint:gosec // The AEAD draws the nonce itself.
}

func (c memoryCipher) open(v Version, sealed Sealed) ([]byte, error) {
	data, err := c.aead.Open(nil, nil, sealed, v.additionalData())
	if err != nil {
		return nil, &Error{Reason: Unreadable, Err: err, Message: fmt.Sprintf(
			"data of record %q at revision %d cannot be decrypted in the agent's memory; nothing on the token is wrong: restart the agent", v.Key, v.DataRevision)}
	}
	return data, nil
}

func (v Version) additionalData() []byte {
	return append(binary.BigEndian.AppendUint64(nil, v.DataRevision), v.Key...)
}
