// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"strings"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// findBatch is how many handles one C_FindObjects asks for.
const findBatch = 256

// Session is one read-write session with a token. It is used by one goroutine
// at a time. It dies with its token and with Module.Reinitialize.
type Session struct {
	module *Module
	handle pkcs11.SessionHandle
	info   TokenInfo
}

// OpenSession opens a session with the token of a slot, without a login.
func (m *Module) OpenSession(slotID uint) (*Session, error) {
	info, err := m.TokenInfo(slotID)
	if err != nil {
		return nil, err
	}
	handle, err := m.ctx.OpenSession(slotID, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return nil, wrap("C_OpenSession", err)
	}
	return &Session{module: m, handle: handle, info: info}, nil
}

// Close ends the session. When it was the token's only one in this process, it
// also ends the login.
func (s *Session) Close() error {
	return wrap("C_CloseSession", s.module.ctx.CloseSession(s.handle))
}

// Info is what the token said of itself when the session was opened.
func (s *Session) Info() TokenInfo { return s.info }

// Login logs the user in. A wrong PIN costs one of the token's tries, so
// callers go through a PIN latch.
//
// A login that the module believes to be there already (CKR_USER_ALREADY_LOGGED_IN)
// may have been lost on the card, so it is ended and made again; the module did
// not look at the PIN the first time.
func (s *Session) Login(pin []byte) error {
	err := s.login(pin)
	if !hasCode(err, CKRUserAlreadyLoggedIn) {
		return err
	}
	if err := s.Logout(); err != nil {
		return err
	}
	return s.login(pin)
}

func (s *Session) login(pin []byte) error {
	s.module.calls.logins.Add(1)
	return wrap("C_Login", s.module.ctx.Login(s.handle, pkcs11.CKU_USER, alias(pin)))
}

// Logout ends the login, also one that the card has lost and the module has not noticed.
func (s *Session) Logout() error {
	if err := wrap("C_Logout", s.module.ctx.Logout(s.handle)); err != nil && !hasCode(err, CKRUserNotLoggedIn) {
		return err
	}
	return nil
}

// SetPIN changes the user's PIN. The session must be logged in. A wrong old PIN
// costs one of the token's tries, so callers go through a PIN latch. An error
// does not mean that nothing was changed, unless it is of ClassPINUnfit or of a
// rejected PIN.
func (s *Session) SetPIN(old, pin []byte) error {
	return wrap("C_SetPIN", s.module.ctx.SetPIN(s.handle, alias(old), alias(pin)))
}

// alias shows a PIN as the string that the binding wants without a second Go
// copy, which could not be zeroed. The binding's own C copy lives for the call.
func alias(pin []byte) string {
	return unsafe.String(unsafe.SliceData(pin), len(pin))
}

// Objects lists all data objects that the session can see. It ends with an
// error rather than leave one out.
func (s *Session) Objects() ([]Object, error) {
	handles, err := s.find(template{attr(pkcs11.CKA_CLASS, pkcs11.CKO_DATA)})
	if err != nil {
		return nil, err
	}
	objects := make([]Object, 0, len(handles))
	for _, handle := range handles {
		s.module.calls.labelReads.Add(1)
		values, err := s.read(handle, pkcs11.CKA_LABEL, pkcs11.CKA_APPLICATION)
		if err != nil {
			return nil, err
		}
		objects = append(objects, Object{
			Handle:      Handle(handle),
			Label:       string(values[0]),
			Application: strings.TrimRight(string(values[1]), "\x00"),
		})
	}
	return objects, nil
}

// CountKeys counts the keys and certificates that the session can see: all of them after
// a login, and before it those that are not private.
func (s *Session) CountKeys() (n int, err error) {
	for _, class := range []uint{pkcs11.CKO_CERTIFICATE, pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY} {
		handles, err := s.find(template{attr(pkcs11.CKA_CLASS, class)})
		if err != nil {
			return 0, err
		}
		n += len(handles)
	}
	return n, nil
}

// Value reads CKA_VALUE of a data object.
func (s *Session) Value(handle Handle) ([]byte, error) {
	s.module.calls.valueReads.Add(1)
	values, err := s.read(pkcs11.ObjectHandle(handle), pkcs11.CKA_VALUE)
	if err != nil {
		return nil, err
	}
	return values[0], nil
}

// Create stores a private data object that nobody can change in place. An error
// does not mean that nothing was stored.
//
// The application carries a terminating zero byte: OpenSC reads it as a C
// string whatever its length says (framework-pkcs15.c, pkcs15_create_data), and
// would store what follows it in memory.
func (s *Session) Create(label, application string, value []byte) (Handle, error) {
	s.module.calls.creates.Add(1)
	handle, err := s.module.ctx.CreateObject(s.handle, template{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		attr(pkcs11.CKA_TOKEN, true),
		attr(pkcs11.CKA_PRIVATE, true),
		attr(pkcs11.CKA_MODIFIABLE, false),
		attr(pkcs11.CKA_LABEL, label),
		attr(pkcs11.CKA_APPLICATION, application+"\x00"),
		attr(pkcs11.CKA_VALUE, value),
	})
	return Handle(handle), wrap("C_CreateObject", err)
}

// Destroy removes an object. An error does not mean that it is still there.
func (s *Session) Destroy(handle Handle) error {
	s.module.calls.destroys.Add(1)
	return wrap("C_DestroyObject", s.module.ctx.DestroyObject(s.handle, pkcs11.ObjectHandle(handle)))
}

// Random returns bytes of the token's random number generator.
func (s *Session) Random(length int) ([]byte, error) {
	s.module.calls.randoms.Add(1)
	random, err := s.module.ctx.GenerateRandom(s.handle, length)
	return random, wrap("C_GenerateRandom", err)
}

// find returns the handles of all objects that match a template, and leaves no
// search open: a session can have only one.
func (s *Session) find(t template) (handles []pkcs11.ObjectHandle, err error) {
	s.module.calls.finds.Add(1)
	if err := s.module.ctx.FindObjectsInit(s.handle, t); err != nil {
		return nil, wrap("C_FindObjectsInit", err)
	}
	defer func() {
		err = errors.Join(err, wrap("C_FindObjectsFinal", s.module.ctx.FindObjectsFinal(s.handle)))
	}()
	for {
		batch, _, err := s.module.ctx.FindObjects(s.handle, findBatch)
		if err != nil {
			return nil, wrap("C_FindObjects", err)
		}
		if len(batch) == 0 {
			return handles, nil
		}
		handles = append(handles, batch...)
	}
}

// read returns the values of attributes of one object in one C_GetAttributeValue.
func (s *Session) read(handle pkcs11.ObjectHandle, types ...uint) ([][]byte, error) {
	wanted := make(template, len(types))
	for i, t := range types {
		wanted[i] = attr(t, nil)
	}
	got, err := s.module.ctx.GetAttributeValue(s.handle, handle, wanted)
	if err != nil {
		return nil, wrap("C_GetAttributeValue", err)
	}
	values := make([][]byte, len(got))
	for i, a := range got {
		values[i] = a.Value
	}
	return values, nil
}

type template = []*pkcs11.Attribute

func attr(attribute uint, value any) *pkcs11.Attribute { return pkcs11.NewAttribute(attribute, value) }
