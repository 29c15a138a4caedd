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
	// A raw point can look like a whole DER OCTET STRING, one time in 256, so
	// one key is not enough.
	var raw, wrapped []byte
	for range 2000 {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		raw = key.PublicKey().Bytes()
		if wrapped, err = asn1.Marshal(raw); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string][]byte{"raw": raw, "octet string": wrapped} {
			point, err := parsePoint(value)
			if err != nil || !point.Equal(key.PublicKey()) {
				t.Fatalf("%s %x: %v, %v", name, value, point, err)
			}
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
