// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/asn1"
	"testing"
)

func TestParsePoint(t *testing.T) {
	t.Parallel()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw := key.PublicKey().Bytes()
	wrapped, err := asn1.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{"raw": raw, "octet string": wrapped} {
		point, err := parsePoint(value)
		if err != nil || !point.Equal(key.PublicKey()) {
			t.Errorf("%s: %v, %v", name, point, err)
		}
	}
	off := bytes.Clone(raw)
	off[64] ^= 1
	for name, value := range map[string][]byte{
		"empty": nil, "short": raw[:64], "wrapped and more": append(bytes.Clone(wrapped), 0), "not on the curve": off,
	} {
		if point, err := parsePoint(value); err == nil {
			t.Errorf("%s was taken for %v", name, point)
		}
	}
}
