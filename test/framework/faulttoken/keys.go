// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"crypto/ecdh"
	"crypto/rand"
	"io"
)

// KeyPair finds a key pair.
func (s *Session) KeyPair(label string) (pair ecdh.KeyExchanger, err error) {
	err = s.call(Find, true, func() error {
		return s.step(Find, func() {
			if found, ok := s.token.pairs[label]; ok {
				pair = &exchanger{s, found.private}
			}
		})
	})
	return pair, err
}

// CountKeys counts the keys and certificates that a process sees that may have logged in.
func (s *Session) CountKeys() (n int, err error) {
	err = s.call(FindKeys, false, func() error {
		n = len(s.token.pairs) + s.token.certificates
		if s.login >= 0 {
			n += len(s.token.pairs) // Private ones.
		}
		return nil
	})
	return n, err
}

// GenerateKeyPair makes a key pair.
func (s *Session) GenerateKeyPair(label string) (pair ecdh.KeyExchanger, err error) {
	private, err := newKeyPair()
	if err != nil {
		return nil, err
	}
	err = s.call(Generate, true, func() error {
		return s.step(Generate, func() {
			s.token.putKeyPair(label, private)
			pair = &exchanger{s, private}
		})
	})
	return pair, err
}

// Random returns random bytes. It always asks the card.
func (s *Session) Random(length int) (b []byte, err error) {
	err = s.call(Random, true, func() error {
		return s.step(Random, func() {
			s.token.counters.APDUs++
			b = make([]byte, length)
			_, _ = io.ReadFull(rand.Reader, b)
		})
	})
	return b, err
}

type exchanger struct {
	session *Session
	private *ecdh.PrivateKey
}

func (e *exchanger) PublicKey() *ecdh.PublicKey { return e.private.PublicKey() }
func (e *exchanger) Curve() ecdh.Curve          { return e.private.Curve() }

func (e *exchanger) ECDH(other *ecdh.PublicKey) (secret []byte, err error) {
	err = e.session.call(Derive, true, func() error {
		var failure error
		if err := e.session.step(Derive, func() { secret, failure = e.private.ECDH(other) }); err != nil {
			return err
		}
		return failure
	})
	return secret, err
}
