// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"bytes"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// readList is what the card shows.
func (s *Session) readList() {
	s.list = nil
	visible := s.token.visible()
	for number, f := range s.token.files {
		if f != nil && f.described && len(s.list) < visible {
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

// Objects lists all data objects that the process sees.
func (s *Session) Objects() (list []pkcs11.Object, err error) {
	if s.token.profile.Memory {
		return s.objectsFromMemory()
	}
	err = s.call(Find, true, func() error {
		return s.step(Find, func() {
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
	t.beforeCall(Find)
	switch {
	case s.told && s.epoch != t.epoch:
		return nil, failed(Find, pkcs11.CKRSessionHandleInvalid)
	case s.finding:
		return nil, failed(Find, ckrOperationActive)
	}
	if f, ok := t.fault(Find); ok {
		return nil, failed(Find, f.Code)
	}
	return slices.Clone(s.list), nil
}

// BeginFind is another part of the process that is in the midst of a find.
func (s *Session) BeginFind() { s.finding = true }

// EndFind is the end of it.
func (s *Session) EndFind() { s.finding = false }

// Value reads a value.
func (s *Session) Value(h pkcs11.Handle) (value []byte, err error) {
	if value, ok := s.valueFromMemory(h); ok {
		return value, nil
	}
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
		return s.step(Read, func() {
			t.counters.APDUs += readAPDUs + len(f.value)/1024
			value = bytes.Clone(f.value)
			s.values[h] = f.value
		})
	})
	return value, err
}

// valueFromMemory answers without a look at the token or its login, for a while also
// when the token is gone.
func (s *Session) valueFromMemory(h pkcs11.Handle) ([]byte, bool) {
	t := s.token
	t.mu.Lock()
	defer t.mu.Unlock()
	cached, ok := s.values[h]
	if !ok || s.told || s.finding || s.unnoticed >= t.profile.MemoryReads || len(t.faults[Read]) > 0 {
		return nil, false
	}
	t.counters.Calls[Read]++
	t.beforeCall(Read)
	if s.epoch != t.epoch {
		s.unnoticed++
	}
	return bytes.Clone(cached), true
}

// SetValue is C_SetAttributeValue of CKA_VALUE, which nobody may call: through OpenSC
// it leaves an orphan and a wrong value in memory, and the next create crashes the process.
func (s *Session) SetValue(h pkcs11.Handle, value []byte) error {
	const setAttribute = "C_SetAttributeValue"
	return s.call(setAttribute, true, func() error {
		t := s.token
		if !t.profile.Memory {
			return failed(setAttribute, ckrAttributeReadOnly)
		}
		orphan := &file{value: bytes.Clone(value)}
		t.writeValue(t.free(), orphan)
		s.values[h], s.confused = orphan.value, true
		return failed(setAttribute, pkcs11.CKRGeneralError)
	})
}

// Create stores a private data object.
func (s *Session) Create(label, application string, value []byte) (h pkcs11.Handle, err error) {
	if s.confused {
		panic("C_CreateObject after C_SetAttributeValue crashes the process")
	}
	err = s.call(Create, true, func() error {
		t := s.token
		if code := t.refuses(len(value)); code != 0 {
			return failed(Create, code)
		}
		f := &file{label: label, application: application, value: bytes.Clone(value)}
		if p := t.profile; p.TruncatesTo > 0 && len(value) > p.MaxBytes {
			f.value = f.value[:p.TruncatesTo]
		}
		number := t.free()
		if err := s.write(number, f, len(value)); err != nil {
			return err
		}
		h = s.know(number, f)
		s.created, s.values[h] = h, bytes.Clone(value)
		if s.token.profile.KeysCount && len(s.list) > t.visible() { // It is there, and nobody sees it.
			s.list = s.list[:len(s.list)-1]
		}
		return nil
	})
	return h, err
}

// refuses tells how the card or the module refuses a value before anything is written; 0
// is not.
func (t *Token) refuses(length int) (code uint) {
	p := t.profile
	objects, total := t.used()
	switch {
	case length == 0 && !p.EmptyValues:
		return pkcs11.CKRArgumentsBad
	case objects >= p.Creates, p.TotalBytes > 0 && total+length > p.TotalBytes:
		return p.FullCode
	case length > p.MaxBytes && p.TruncatesTo == 0 && !p.Orphans, t.reader.Atomic:
		return pkcs11.CKRGeneralError
	}
	return 0
}

// write stores an object: its value first, and then the description. What is full is a
// CKR_GENERAL_ERROR, after which the token answers as before.
func (s *Session) write(number int, f *file, length int) error {
	t := s.token
	ok := true
	if t.profile.TwoSteps {
		err := s.step(Create, func() { ok = t.writeValue(number, f) })
		if err != nil {
			t.tear(f)
			return err
		}
		if !ok {
			return failed(Create, pkcs11.CKRGeneralError)
		}
	}
	err := s.step(Create, func() {
		ok = (t.profile.TwoSteps || t.writeValue(number, f)) && t.describe(f)
		if ok {
			t.journal = append(t.journal, change{number, f, true})
			t.created(length)
		}
	})
	if err == nil && !ok {
		return failed(Create, pkcs11.CKRGeneralError)
	}
	return err
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
		if f.broken && t.profile.Stuck { // The card does not find the value, and the module gives up.
			return failed(Destroy, pkcs11.CKRGeneralError)
		}
		if t.profile.TwoSteps {
			if err := s.step(Destroy, func() { t.removeValue(f) }); err != nil {
				return err
			}
		}
		err := s.step(Destroy, func() {
			t.removeRest(number, f)
			t.journal = append(t.journal, change{number, f, false})
			t.destroyed(len(f.value))
		})
		if err != nil {
			return err
		}
		s.forget(h)
		return nil
	})
}

func (s *Session) forget(h pkcs11.Handle) {
	s.list = slices.DeleteFunc(s.list, func(o pkcs11.Object) bool { return o.Handle == h })
	delete(s.handles, s.files[h])
	delete(s.files, h)
	delete(s.numbers, h)
	delete(s.values, h)
}

// forgetLast: a module that reports an error does not list what it created.
func (s *Session) forgetLast() { s.forget(s.created) }
