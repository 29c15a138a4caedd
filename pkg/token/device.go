// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/ecdh"

	"j5t.io/hsm/pkg/pkcs11"
)

// Device is one token after login. *pkcs11.Session is the real one; the
// fault-injecting token of the tests is the other.
//
// A Device is used by one goroutine at a time. Its errors are *pkcs11.Error;
// pkcs11.ClassOf says what they mean for the caller.
type Device interface {
	// Info is what the token said of itself when the session was opened.
	Info() pkcs11.TokenInfo
	// Objects lists all data objects (CKO_DATA) of the token, also those of
	// other applications.
	Objects() ([]pkcs11.Object, error)
	// CountKeys counts the keys and certificates of the token. Some modules show only
	// so many objects, these included.
	CountKeys() (int, error)
	// Value reads CKA_VALUE of a data object.
	Value(pkcs11.Handle) ([]byte, error)
	// Create stores a private data object. An error does not mean that nothing
	// was stored.
	Create(label, application string, value []byte) (pkcs11.Handle, error)
	// Destroy removes an object. An error does not mean that it is still there.
	Destroy(pkcs11.Handle) error
	// KeyPair finds the P-256 key pair with a label; nil when there is none.
	KeyPair(label string) (ecdh.KeyExchanger, error)
	// GenerateKeyPair makes a P-256 key pair whose private key never leaves the
	// token.
	GenerateKeyPair(label string) (ecdh.KeyExchanger, error)
	// Random returns bytes of the token's random number generator.
	Random(length int) ([]byte, error)
}
