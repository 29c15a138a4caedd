// SPDX-License-Identifier: Apache-2.0

package faulttoken

import "j5t.io/hsm/pkg/pkcs11"

// Session is a process's way to the token, after C_Initialize, C_OpenSession
// and C_Login. It implements the token.Device of pkg/token.
type Session struct {
	token *Token
	epoch int // of the token when it was opened
	login int
	told  bool // that the token is gone

	list      []pkcs11.Object
	numbers   map[pkcs11.Handle]int // of the files
	files     map[pkcs11.Handle]*file
	handles   map[*file]pkcs11.Handle
	values    map[pkcs11.Handle][]byte
	created   pkcs11.Handle // the last one
	unnoticed int           // reads from memory after the token went away
	finding   bool          // see BeginFind
	confused  bool          // see SetValue
}

// Open is a fresh process that logs in with the right PIN. It turns the power on.
func (t *Token) Open() (*Session, error) {
	s, err := t.OpenSession()
	if err != nil {
		return nil, err
	}
	return s, s.Login([]byte(t.rightPIN()))
}

func (t *Token) rightPIN() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pin
}

// OpenSession is a fresh process without a login. It turns the power on.
func (t *Token) OpenSession() (*Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.reachable() {
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

// Login is C_Login.
func (s *Session) Login(pin []byte) error {
	return s.call(Login, false, func() error {
		t := s.token
		if s.login >= 0 {
			return failed(Login, pkcs11.CKRUserAlreadyLoggedIn)
		}
		if code := t.tryPIN(pin); code != 0 {
			return failed(Login, code)
		}
		return s.step(Login, func() {
			t.wrongs, t.loggedIn, s.login = 0, true, t.login
			if t.profile.LoginWrites {
				t.counters.Sectors++
			}
		})
	})
}

// Logout is C_Logout.
func (s *Session) Logout() {
	s.token.mu.Lock()
	defer s.token.mu.Unlock()
	if s.login == s.token.login {
		s.token.loggedIn = false
	}
	s.login = -1
}

// Info is what the token says of itself.
func (s *Session) Info() pkcs11.TokenInfo { return s.token.Info() }

// call is what all calls have in common.
func (s *Session) call(function string, needsLogin bool, do func() error) error {
	t := s.token
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counters.Calls[function]++
	t.beforeCall(function)
	if s.epoch != t.epoch {
		return s.gone(function)
	}
	if s.finding {
		return failed(function, ckrOperationActive)
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

// gone is what a process hears whose token went away.
func (s *Session) gone(function string) error {
	switch {
	case s.told:
		return failed(function, pkcs11.CKRSessionHandleInvalid)
	case !s.token.present:
		s.told = true
		return failed(function, pkcs11.CKRDeviceRemoved)
	}
	s.told = true
	return failed(function, pkcs11.CKRGeneralError)
}

// step does one effect, unless an event ends the session or its login before it. After
// it, an event still takes the answer.
func (s *Session) step(function string, effect func()) error {
	t := s.token
	t.steps++
	t.atStep(false)
	switch {
	case s.epoch != t.epoch:
		return s.gone(function)
	case function != Login && s.login != t.login:
		return failed(function, pkcs11.CKRUserNotLoggedIn)
	}
	effect()
	t.atStep(true)
	if s.epoch != t.epoch {
		return s.gone(function)
	}
	return nil
}

func failed(function string, code uint) error {
	return &pkcs11.Error{Op: function, Code: code}
}
