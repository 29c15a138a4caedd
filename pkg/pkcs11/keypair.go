// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"crypto/ecdh"
	"encoding/asn1"
	"fmt"

	"github.com/miekg/pkcs11"
)

// oidP256 is CKA_EC_PARAMS of P-256: the DER of OID 1.2.840.10045.3.1.7.
var oidP256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

// Sizes of P-256, in bytes.
const (
	pointSize        = 65 // An uncompressed point.
	sharedSecretSize = 32 // An ECDH result.
)

// KeyPair finds the P-256 key pair with a label; nil when there is none. Two
// private keys of one label are an error.
func (s *Session) KeyPair(label string) (ecdh.KeyExchanger, error) {
	private, err := s.findKey(pkcs11.CKO_PRIVATE_KEY, label)
	if err != nil || private == nil {
		return nil, err
	}
	public, err := s.findKey(pkcs11.CKO_PUBLIC_KEY, label)
	if err != nil {
		return nil, err
	}
	if public == nil {
		return nil, errorf(ClassMalformed, "key pair %q: the token holds its private key but not its public key", label)
	}
	return s.keyPair(label, *public, *private)
}

// GenerateKeyPair makes a P-256 key pair whose private key never leaves the
// token. A label that is in use is refused.
func (s *Session) GenerateKeyPair(label string) (ecdh.KeyExchanger, error) {
	existing, err := s.findKey(pkcs11.CKO_PRIVATE_KEY, label)
	if err != nil {
		return nil, err
	}
	if existing != nil {
		return nil, errorf(ClassInvalid, "key pair %q exists already", label)
	}
	s.module.calls.keyPairs.Add(1)
	public, private, err := s.module.ctx.GenerateKeyPair(s.handle,
		[]*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		template{
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
			attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
			attr(pkcs11.CKA_TOKEN, true),
			attr(pkcs11.CKA_LABEL, label),
			attr(pkcs11.CKA_ID, label),
			attr(pkcs11.CKA_EC_PARAMS, oidP256),
		},
		template{
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
			attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
			attr(pkcs11.CKA_TOKEN, true),
			attr(pkcs11.CKA_PRIVATE, true),
			attr(pkcs11.CKA_LABEL, label),
			attr(pkcs11.CKA_ID, label),
			attr(pkcs11.CKA_SENSITIVE, true),
			attr(pkcs11.CKA_EXTRACTABLE, false),
			attr(pkcs11.CKA_DERIVE, true),
			attr(pkcs11.CKA_SIGN, false),
		})
	if err != nil {
		return nil, wrap("C_GenerateKeyPair", err)
	}
	return s.keyPair(label, public, private)
}

// findKey returns the one EC key of a class and label; nil when there is none.
func (s *Session) findKey(class uint, label string) (*pkcs11.ObjectHandle, error) {
	handles, err := s.find(template{
		attr(pkcs11.CKA_CLASS, class),
		attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		attr(pkcs11.CKA_LABEL, label),
	})
	switch {
	case err != nil:
		return nil, err
	case len(handles) == 0:
		return nil, nil
	case len(handles) > 1:
		return nil, errorf(ClassMalformed, "key pair %q: the token holds %d such keys", label, len(handles))
	}
	return &handles[0], nil
}

func (s *Session) keyPair(label string, public, private pkcs11.ObjectHandle) (*keyPair, error) {
	values, err := s.read(public, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(values[0], oidP256) {
		return nil, errorf(ClassMalformed, "key pair %q is not of curve P-256", label)
	}
	point, err := parsePoint(values[1])
	if err != nil {
		return nil, errorf(ClassMalformed, "key pair %q: %w", label, err)
	}
	return &keyPair{session: s, private: private, public: point}, nil
}

// parsePoint reads CKA_EC_POINT: a DER OCTET STRING (PKCS#11 v2.40 section
// 2.3.3) that some modules leave unwrapped. The two begin with the same byte;
// only their length tells them apart.
func parsePoint(value []byte) (*ecdh.PublicKey, error) {
	if len(value) != pointSize {
		var point []byte
		if rest, err := asn1.Unmarshal(value, &point); err != nil || len(rest) != 0 {
			return nil, fmt.Errorf("CKA_EC_POINT of %d bytes is no P-256 point", len(value))
		}
		value = point
	}
	return ecdh.P256().NewPublicKey(value)
}

// keyPair is a key pair on the token. It dies with its session.
type keyPair struct {
	session *Session
	private pkcs11.ObjectHandle
	public  *ecdh.PublicKey
}

func (k *keyPair) PublicKey() *ecdh.PublicKey { return k.public }

func (k *keyPair) Curve() ecdh.Curve { return ecdh.P256() }

// ECDH lets the token compute the shared secret: the x coordinate, as
// ecdh.PrivateKey.ECDH returns it. The token hands it out as an object of the
// session, which is destroyed at once.
func (k *keyPair) ECDH(remote *ecdh.PublicKey) (secret []byte, err error) {
	if remote.Curve() != k.Curve() {
		return nil, errorf(ClassInvalid, "ECDH: the other key is of curve %v, not P-256", remote.Curve())
	}
	module, session := k.session.module, k.session
	module.calls.derives.Add(1)
	derived, err := module.ctx.DeriveKey(session.handle,
		[]*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE,
			pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, remote.Bytes()))},
		k.private,
		template{
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
			attr(pkcs11.CKA_TOKEN, false),
			attr(pkcs11.CKA_SENSITIVE, false),
			attr(pkcs11.CKA_EXTRACTABLE, true),
			attr(pkcs11.CKA_VALUE_LEN, sharedSecretSize),
		})
	if err != nil {
		return nil, wrap("C_DeriveKey", err)
	}
	values, err := session.read(derived, pkcs11.CKA_VALUE)
	if destroyed := wrap("C_DestroyObject", module.ctx.DestroyObject(session.handle, derived)); err == nil {
		err = destroyed
	}
	if err != nil {
		return nil, err
	}
	if len(values[0]) != sharedSecretSize {
		return nil, errorf(ClassMalformed, "ECDH: the token returned %d bytes, not %d", len(values[0]), sharedSecretSize)
	}
	return values[0], nil
}
