// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"io"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// Session is a process's way to the token, after C_Initialize, C_OpenSession
// and C_Login. It implements the token.Device of pkg/token.
type Session struct {
	token *Token
	epoch int // of the token when it was opened
	login int
	told  bool // that the token is gone

	list    []pkcs11.Object
	numbers map[pkcs11.Handle]int // of the files
	files   map[pkcs11.Handle]*file
	handles map[*file]pkcs11.Handle
	values  map[pkcs11.Handle][]byte
}

// Open is a fresh process that logs in with the right PIN. It turns the power on.
func (t *Token) Open() (*Session, error) {
	s, err := t.OpenSession()
	if err != nil {
		return nil, err
	}
	return s, s.Login([]byte(PIN))
}

// OpenSession is a fresh process without a login. It turns the power on.
func (t *Token) OpenSession() (*Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.present {
		return nil, &pkcs11.Error{Op: "C_OpenSession", Code: pkcs11.CKRTokenNotPresent}
	}
	s := &Session{
		token: t, epoch: t.epoch, login: -1,
		numbers: map[pkcs11.Handle]int{}, files: map[pkcs11.Handle]*file{},
		handles: map[*file]pkcs11.Handle{}, values: map[pkcs11.Handle][]byte{},
	}
	s.readList()
	t.counters.APDUs += openAPDUs + openAPDUsAnObject*len(s.list)
	return s, nil
}

// readList is what the card shows.
func (s *Session) readList() {
	s.list = nil
	for number, f := range s.token.files {
		if f != nil && f.described && len(s.list) < s.token.profile.Visible {
			s.know(number, f)
		}
	}
}

// know gives a file a handle; no other process gives it the same.
func (s *Session) know(number int, f *file) pkcs11.Handle {
	h, ok := s.handles[f]
	if !ok {
		s.token.handles++
		h = s.token.handles
		s.handles[f] = h
	}
	s.list = append(s.list, pkcs11.Object{Handle: h, Label: f.label, Application: f.application})
	s.numbers[h], s.files[h] = number, f
	return h
}

// Login is C_Login.
func (s *Session) Login(pin []byte) error {
	return s.call(Login, false, func() error {
		t := s.token
		switch {
		case t.wrongs >= t.profile.PINTries:
			return failed(Login, pkcs11.CKRPINLocked)
		case string(pin) != PIN:
			t.wrongs++
			if t.wrongs >= t.profile.PINTries {
				return failed(Login, pkcs11.CKRPINLocked)
			}
			return failed(Login, pkcs11.CKRPINIncorrect)
		case s.login >= 0:
			return failed(Login, pkcs11.CKRUserAlreadyLoggedIn)
		}
		return t.step(Login, func() { t.wrongs, s.login = 0, t.login })
	})
}

// Logout is C_Logout.
func (s *Session) Logout() {
	s.token.mu.Lock()
	defer s.token.mu.Unlock()
	s.login = -1
}

// Info is what the token says of itself.
func (s *Session) Info() pkcs11.TokenInfo { return s.token.Info() }

// Objects lists all data objects that the process sees.
func (s *Session) Objects() (list []pkcs11.Object, err error) {
	if s.token.profile.Memory {
		return s.objectsFromMemory()
	}
	err = s.call(Find, true, func() error {
		return s.token.step(Find, func() {
			s.readList()
			list = slices.Clone(s.list)
		})
	})
	return list, err
}

// objectsFromMemory answers also when the token is gone.
func (s *Session) objectsFromMemory() ([]pkcs11.Object, error) {
	t := s.token
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counters.Calls[Find]++
	if s.told && s.epoch != t.epoch {
		return nil, failed(Find, pkcs11.CKRSessionHandleInvalid)
	}
	if f, ok := t.fault(Find); ok {
		return nil, failed(Find, f.Code)
	}
	return slices.Clone(s.list), nil
}

// Value reads a value.
func (s *Session) Value(h pkcs11.Handle) (value []byte, err error) {
	err = s.call(Read, true, func() error {
		t := s.token
		f, ok := s.files[h]
		if !ok {
			return failed(Read, pkcs11.CKRObjectHandleInvalid)
		}
		if cached, ok := s.values[h]; ok && t.profile.Memory {
			value = bytes.Clone(cached)
			return nil
		}
		if t.files[s.numbers[h]] != f {
			return failed(Read, pkcs11.CKRObjectHandleInvalid)
		}
		if f.broken {
			return failed(Read, pkcs11.CKRGeneralError)
		}
		return t.step(Read, func() {
			t.counters.APDUs += 2 + readAPDUsAKilobyte*len(f.value)/1024
			value = bytes.Clone(f.value)
			s.values[h] = f.value
		})
	})
	return value, err
}

// Create stores a private data object.
func (s *Session) Create(label, application string, value []byte) (h pkcs11.Handle, err error) {
	err = s.call(Create, true, func() error {
		t := s.token
		p := t.profile
		objects, total := t.used()
		switch {
		case len(value) == 0 && !p.EmptyValues:
			return failed(Create, pkcs11.CKRArgumentsBad)
		case objects >= p.Creates, p.TotalBytes > 0 && total+len(value) > p.TotalBytes:
			return failed(Create, p.FullCode)
		case len(value) > p.MaxBytes && p.TruncatesTo == 0:
			return failed(Create, pkcs11.CKRGeneralError)
		}
		f := &file{label: label, application: application, value: bytes.Clone(value)}
		if len(value) > p.MaxBytes {
			f.value = f.value[:p.TruncatesTo]
		}
		number := t.free()
		write := func() { t.files[number] = f }
		if p.TwoSteps {
			if err := t.step(Create, write); err != nil {
				return err
			}
		}
		err := t.step(Create, func() {
			write()
			f.described = p.LongNames || len(label) < 250 && len(application) < 250
			t.journal = append(t.journal, change{number, f, true})
			apdus, sectors := createCost(len(value))
			t.counters.APDUs += apdus
			t.counters.Sectors += sectors
		})
		if err != nil {
			return err
		}
		h = s.know(number, f)
		s.values[h] = bytes.Clone(value)
		return nil
	})
	return h, err
}

// Destroy removes an object.
func (s *Session) Destroy(h pkcs11.Handle) error {
	return s.call(Destroy, true, func() error {
		t := s.token
		f, ok := s.files[h]
		number := s.numbers[h]
		if !ok || t.files[number] != f {
			return failed(Destroy, pkcs11.CKRObjectHandleInvalid)
		}
		if t.profile.TwoSteps {
			if err := t.step(Destroy, func() { f.broken = true }); err != nil {
				return err
			}
		}
		err := t.step(Destroy, func() {
			t.files[number] = nil
			t.journal = append(t.journal, change{number, f, false})
			t.counters.APDUs += destroyAPDUs
			t.counters.Sectors += destroySectors
		})
		if err != nil {
			return err
		}
		s.forget(h)
		return nil
	})
}

func (s *Session) forget(h pkcs11.Handle) {
	for i, o := range s.list {
		if o.Handle == h {
			s.list = append(s.list[:i:i], s.list[i+1:]...)
			break
		}
	}
	delete(s.handles, s.files[h])
	delete(s.files, h)
	delete(s.numbers, h)
	delete(s.values, h)
}

// KeyPair finds a key pair.
func (s *Session) KeyPair(label string) (pair ecdh.KeyExchanger, err error) {
	err = s.call(Find, true, func() error {
		return s.token.step(Find, func() {
			if private, ok := s.token.pairs[label]; ok {
				pair = &exchanger{s, private}
			}
		})
	})
	return pair, err
}

// GenerateKeyPair makes a key pair.
func (s *Session) GenerateKeyPair(label string) (pair ecdh.KeyExchanger, err error) {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	err = s.call(Generate, true, func() error {
		return s.token.step(Generate, func() {
			s.token.pairs[label] = private
			pair = &exchanger{s, private}
		})
	})
	return pair, err
}

// Random returns random bytes.
func (s *Session) Random(length int) (b []byte, err error) {
	err = s.call(Random, true, func() error {
		return s.token.step(Random, func() {
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
		if err := e.session.token.step(Derive, func() { secret, failure = e.private.ECDH(other) }); err != nil {
			return err
		}
		return failure
	})
	return secret, err
}

// call is what all calls have in common.
func (s *Session) call(function string, needsLogin bool, do func() error) error {
	t := s.token
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counters.Calls[function]++
	if s.epoch != t.epoch {
		if !s.told {
			s.told = true
			if !t.present {
				return failed(function, pkcs11.CKRDeviceRemoved)
			}
			return failed(function, pkcs11.CKRGeneralError)
		}
		return failed(function, pkcs11.CKRSessionHandleInvalid)
	}
	if needsLogin && s.login != t.login {
		return failed(function, pkcs11.CKRUserNotLoggedIn)
	}
	if f, ok := t.fault(function); ok {
		if f.Done {
			if err := do(); err != nil {
				return err
			}
			if t.profile.Memory && function == Create {
				s.forgetLast()
			}
		}
		return failed(function, f.Code)
	}
	err := do()
	if s.epoch != t.epoch {
		s.told = true
	}
	return err
}

// forgetLast: a module that reports an error does not list what it created.
func (s *Session) forgetLast() {
	s.forget(s.list[len(s.list)-1].Handle)
}

func (t *Token) fault(function string) (Fault, bool) {
	queue := t.faults[function]
	if len(queue) == 0 {
		return Fault{}, false
	}
	t.faults[function] = queue[1:]
	return queue[0], queue[0].Code != 0
}

func failed(function string, code uint) error {
	return &pkcs11.Error{Op: function, Code: code}
}
