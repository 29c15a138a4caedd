// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

var _ token.Device = (*Session)(nil)

func open(t *testing.T, tok *Token) *Session {
	t.Helper()
	s, err := tok.Open()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Session, label string, bytes int) pkcs11.Handle {
	t.Helper()
	h, err := s.Create(label, "app", make([]byte, bytes))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func code(err error) uint {
	var e *pkcs11.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func list(t *testing.T, s *Session) []pkcs11.Object {
	t.Helper()
	objects, err := s.Objects()
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// TestLimits is the first table of what real tokens do.
func TestLimits(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		p                  Profile
		creates, visible   int
		largest, truncated int // what a fresh process reads of one byte more
		empty              bool
	}{
		{Pico66, 128, 126, 4032, 0, false},
		{PicoDev, 256, 126, 32767, 1024, false},
		{SmartCardHSM, 256, 126, 1216, 0, false},
		{SoftHSM, 300, 300, 16 << 20, 0, true},
	} {
		t.Run(row.p.Name, func(t *testing.T) {
			t.Parallel()
			tok := New(row.p)
			s := open(t, tok)
			h := create(t, s, "largest", row.largest)
			_, err := s.Create("larger", "app", make([]byte, row.largest+1))
			if (err == nil) != (row.truncated > 0) {
				t.Errorf("one byte more gave %v", err)
			}
			if row.truncated > 0 {
				for _, o := range list(t, open(t, tok)) {
					if o.Label != "larger" {
						continue
					}
					if value, err := open(t, tok).valueOf(o.Label); err != nil || len(value) != row.truncated {
						t.Errorf("a fresh process reads %d bytes, %v", len(value), err)
					}
				}
				if err := s.Destroy(s.last()); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Destroy(h); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Create("empty", "app", nil); (err == nil) != row.empty {
				t.Errorf("an empty value gave %v", err)
			}
			if row.empty {
				if err := s.Destroy(s.last()); err != nil {
					t.Fatal(err)
				}
			}
			for i := range row.creates {
				create(t, s, fmt.Sprint(i), 10)
			}
			if row.p.Creates == row.creates {
				if _, err := s.Create("surplus", "app", []byte{1}); code(err) != row.p.FullCode {
					t.Errorf("the surplus create gave %v", err)
				}
			}
			if got := len(list(t, s)); got != row.creates {
				t.Errorf("the process that created %d sees %d", row.creates, got)
			}
			if got := len(list(t, open(t, tok))); got != row.visible {
				t.Errorf("a fresh process sees %d, expected %d", got, row.visible)
			}
		})
	}
}

func (s *Session) last() pkcs11.Handle { return s.list[len(s.list)-1].Handle }

func (s *Session) valueOf(label string) ([]byte, error) {
	for _, o := range s.list {
		if o.Label == label {
			return s.Value(o.Handle)
		}
	}
	return nil, fmt.Errorf("no object %q", label)
}

func TestTotalBytes(t *testing.T) {
	t.Parallel()
	s := open(t, New(SmartCardHSM))
	for i := range (76 << 10) / 1000 {
		create(t, s, fmt.Sprint(i), 1000)
	}
	if _, err := s.Create("one more", "app", make([]byte, 1000)); code(err) != pkcs11.CKRDeviceMemory {
		t.Errorf("beyond 76 KB: %v", err)
	}
}

func TestLongNamesAreLost(t *testing.T) {
	t.Parallel()
	for _, p := range []Profile{Pico66, SoftHSM} {
		tok := New(p)
		create(t, open(t, tok), string(bytes.Repeat([]byte("x"), 250)), 1)
		if got := len(list(t, open(t, tok))); (got == 1) != p.LongNames {
			t.Errorf("%s: a fresh process sees %d objects with long names", p.Name, got)
		}
	}
}

// TestMemory: the module answers from memory what another process destroyed,
// and does not list what it created with an error.
func TestMemory(t *testing.T) {
	t.Parallel()
	for _, p := range []Profile{Pico66, SoftHSM} {
		tok := New(p)
		one := open(t, tok)
		h := create(t, one, "a", 1)
		other := open(t, tok)
		if err := other.Destroy(list(t, other)[0].Handle); err != nil {
			t.Fatal(err)
		}
		if _, err := one.Value(h); (err == nil) != p.Memory {
			t.Errorf("%s: reading what another process destroyed: %v", p.Name, err)
		}
		if got := len(list(t, one)) == 1; got != p.Memory {
			t.Errorf("%s: it is listed: %v", p.Name, got)
		}
		tok.Fail(Create, Fault{Code: pkcs11.CKRGeneralError, Done: true})
		if _, err := other.Create("b", "app", []byte{1}); code(err) != pkcs11.CKRGeneralError {
			t.Errorf("%s: %v", p.Name, err)
		}
		if got := len(list(t, other)) == 0; got != p.Memory {
			t.Errorf("%s: what was created with an error is hidden: %v", p.Name, got)
		}
		if got := len(list(t, open(t, tok))); got != 1 {
			t.Errorf("%s: a fresh process sees %d objects", p.Name, got)
		}
	}
}

// TestCuts cuts the power at each step of a create and a destroy.
func TestCuts(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		p                Profile
		step             int
		after            bool
		createdOf, seen  int
		broken, answered bool
	}{
		{Pico66, 1, false, 0, 1, false, false},
		{Pico66, 1, true, 0, 1, false, false},
		{Pico66, 2, false, 0, 1, false, false},
		{Pico66, 2, true, 1, 2, false, false},
		{Pico66, 3, false, 1, 2, false, true},
		{Pico66, 3, true, 1, 2, true, true},
		{Pico66, 4, false, 1, 2, true, true},
		{Pico66, 4, true, 1, 1, false, true},
		{SoftHSM, 1, false, 0, 1, false, false},
		{SoftHSM, 1, true, 1, 2, false, false},
		{SoftHSM, 2, false, 1, 2, false, true},
		{SoftHSM, 2, true, 1, 1, false, true},
	} {
		tok := New(row.p)
		s := open(t, tok)
		h := create(t, s, "old", 1)
		tok.CutAt(row.step, row.after)
		_, err := s.Create("new", "app", []byte{1})
		if (err == nil) != row.answered {
			t.Errorf("%+v: create gave %v", row, err)
		}
		err = s.Destroy(h)
		if row.answered && code(err) != pkcs11.CKRGeneralError || !row.answered && code(err) != pkcs11.CKRSessionHandleInvalid {
			t.Errorf("%+v: destroy gave %v", row, err)
		}
		fresh := open(t, tok)
		if got := len(list(t, fresh)); got != row.seen {
			t.Errorf("%+v: %d objects are seen", row, got)
		}
		if _, err := fresh.valueOf("old"); row.broken != (code(err) == pkcs11.CKRGeneralError) {
			t.Errorf("%+v: reading the old object: %v", row, err)
		}
		if row.broken {
			if err := fresh.Destroy(fresh.list[0].Handle); err != nil {
				t.Errorf("%+v: destroying it again: %v", row, err)
			}
		}
	}
}

func TestPowerCutForgets(t *testing.T) {
	t.Parallel()
	tok := New(Pico66)
	s := open(t, tok)
	for i := range 6 {
		create(t, s, fmt.Sprint(i), 1)
	}
	for range 3 {
		if err := s.Destroy(list(t, s)[0].Handle); err != nil {
			t.Fatal(err)
		}
	}
	tok.Forget(Forgets{Creates: 1, Destroys: 2, Broken: true})
	tok.PowerCut()
	var labels string
	for _, o := range tok.Flash() {
		labels += fmt.Sprintf("%s %v ", o.Label, o.Broken)
	}
	if labels != "1 true 2 true 3 false 4 false " {
		t.Errorf("there is left %s", labels)
	}
	// An object whose place was taken does not come back, and no older one for it.
	s = open(t, tok)
	for range 2 {
		if err := s.Destroy(list(t, s)[0].Handle); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		create(t, s, fmt.Sprint("new ", i), 1)
	}
	tok.Forget(Forgets{Destroys: 1})
	tok.PowerCut()
	if got := len(tok.Flash()); got != 5 {
		t.Errorf("there are left %d objects", got)
	}
}

func TestRemovalAndLogin(t *testing.T) {
	t.Parallel()
	tok := New(Pico66)
	s := open(t, tok)
	h := create(t, s, "a", 1)
	tok.Remove()
	if _, err := s.Objects(); err != nil {
		t.Errorf("a find from memory gave %v", err)
	}
	if _, err := tok.Open(); code(err) != pkcs11.CKRTokenNotPresent {
		t.Errorf("opening a removed token gave %v", err)
	}
	for _, want := range []uint{pkcs11.CKRDeviceRemoved, pkcs11.CKRSessionHandleInvalid, pkcs11.CKRSessionHandleInvalid} {
		if err := s.Destroy(h); code(err) != want {
			t.Errorf("destroy gave %v, expected %#x", err, want)
		}
	}
	tok.Insert()
	if err := s.Destroy(h); code(err) != pkcs11.CKRSessionHandleInvalid {
		t.Errorf("the old session gave %v", err)
	}
	s = open(t, tok)
	if again := list(t, s)[0].Handle; again == h {
		t.Error("the object has the same handle as before")
	}

	tok.LoseLogin()
	if _, err := s.Random(1); code(err) != pkcs11.CKRUserNotLoggedIn {
		t.Errorf("after the login was lost: %v", err)
	}
	if err := s.Login([]byte(PIN)); code(err) != pkcs11.CKRUserAlreadyLoggedIn {
		t.Errorf("a login without a logout gave %v", err)
	}
	s.Logout()
	if err := s.Login([]byte(PIN)); err != nil {
		t.Errorf("logout and login gave %v", err)
	}
	s.Logout()
	for i, want := range []uint{pkcs11.CKRPINIncorrect, pkcs11.CKRPINIncorrect, pkcs11.CKRPINLocked} {
		if info := tok.Info(); info.UserPINCountLow != (i > 0) || info.UserPINFinalTry != (i == 2) || info.UserPINLocked {
			t.Errorf("before try %d the flags are %+v", i+1, info)
		}
		if err := s.Login([]byte("000000")); code(err) != want {
			t.Errorf("wrong PIN number %d gave %v", i+1, err)
		}
	}
	if err := s.Login([]byte(PIN)); code(err) != pkcs11.CKRPINLocked || !tok.Info().UserPINLocked {
		t.Errorf("the right PIN of a locked token gave %v", err)
	}
}
