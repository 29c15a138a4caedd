// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"fmt"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
)

func TestValuesFromMemory(t *testing.T) {
	t.Parallel()
	fact(t, "OpenSC answers values from memory after the first read or the create, also when another process destroyed the object")
	fact(t, "the list of objects is read once")
	fact(t, "a read of a known object is 0 APDUs")
	for _, p := range FieldProfiles {
		tok := New(p)
		one := open(t, tok)
		created := create(t, one, "created", 5000%p.MaxBytes)
		other := open(t, tok)
		read := list(t, other)[0].Handle
		before := tok.Counters().APDUs
		if _, err := other.Value(read); err != nil {
			t.Error(err)
		}
		if tok.Counters().APDUs == before {
			t.Errorf("%s: the first read did not reach the card", p.Name)
		}
		third := open(t, tok)
		create(t, third, "unseen", 1)
		if err := third.Destroy(list(t, third)[0].Handle); err != nil {
			t.Fatal(err)
		}
		before = tok.Counters().APDUs
		for _, process := range []struct {
			*Session
			pkcs11.Handle
		}{{one, created}, {other, read}} {
			if _, err := process.Value(process.Handle); err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
			if seen := list(t, process.Session); len(seen) != 1 || seen[0].Label != "created" {
				t.Errorf("%s: the process lists %v", p.Name, seen)
			}
		}
		if got := tok.Counters().APDUs; got != before {
			t.Errorf("%s: reads from memory took %d APDUs", p.Name, got-before)
		}
	}
}

func TestSoftHSMReadsTheFile(t *testing.T) {
	t.Parallel()
	fact(t, "SoftHSM shows other processes' changes at once")
	tok := New(SoftHSM)
	one, other := open(t, tok), open(t, tok)
	h := create(t, one, "a", 1)
	if got := len(list(t, other)); got != 1 {
		t.Errorf("another process sees %d objects", got)
	}
	if err := other.Destroy(list(t, other)[0].Handle); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Value(h); err == nil {
		t.Error("a destroyed object was read")
	}
}

func TestOpenCost(t *testing.T) {
	t.Parallel()
	fact(t, "open and login of a fresh process: 24 + 3·N APDUs")
	fact(t, "most logins write a flash sector")
	for _, p := range FieldProfiles {
		for _, n := range []int{0, 1, 40} {
			tok := New(p)
			s := open(t, tok)
			for i := range n {
				create(t, s, fmt.Sprint(i), 100)
			}
			before := tok.Counters()
			open(t, tok)
			after := tok.Counters()
			if got := after.APDUs - before.APDUs; got != 24+3*n {
				t.Errorf("%s: %d objects: %d APDUs", p.Name, n, got)
			}
			if got := after.Sectors - before.Sectors; got != 1 {
				t.Errorf("%s: the login wrote %d sectors", p.Name, got)
			}
		}
	}
}

func TestAnotherClient(t *testing.T) {
	t.Parallel()
	tok := New(PicoNext)
	s := open(t, tok)
	create(t, s, "known", 1)
	fact(t, "another client that selects the applet logs us out: 0x101, then C_Login says 0x100")
	fact(t, "C_Logout and C_Login cure a lost login")
	tok.LoseLogin()
	for range 2 {
		if _, err := s.Random(1); code(err) != pkcs11.CKRUserNotLoggedIn {
			t.Errorf("a call gave %v", err)
		}
	}
	if err := s.Login([]byte(PIN)); code(err) != pkcs11.CKRUserAlreadyLoggedIn {
		t.Errorf("a login gave %v", err)
	}
	s.Logout()
	if err := s.Login([]byte(PIN)); err != nil {
		t.Errorf("logout and login gave %v", err)
	}
	fact(t, "a read from memory does not notice that the login was lost")
	tok.LoseLogin()
	if _, err := s.valueOf("known"); err != nil {
		t.Error(err)
	}
	s.Logout()
	fact(t, "while we are logged in, any process with access to the reader can read private objects raw")
	if _, err := tok.ReadRaw("known"); code(err) != pkcs11.CKRUserNotLoggedIn {
		t.Errorf("raw without a login: %v", err)
	}
	if err := s.Login([]byte(PIN)); err != nil {
		t.Fatal(err)
	}
	if value, err := tok.ReadRaw("known"); err != nil || len(value) != 1 {
		t.Errorf("raw: %v, %v", value, err)
	}
	fact(t, "lock_login = true shuts other clients out")
	tok.SetReader(Reader{LockLogin: true})
	tok.LoseLogin()
	if _, err := s.Random(1); err != nil {
		t.Errorf("with lock_login a call gave %v", err)
	}
	if _, err := tok.ReadRaw("known"); err == nil {
		t.Error("with lock_login another process reads raw")
	}
	fact(t, "atomic = true breaks writes")
	tok.SetReader(Reader{Atomic: true})
	if _, err := s.Create("new", "app", []byte{1}); err == nil {
		t.Error("with atomic a create works")
	}
}

func TestLoginLostInACommit(t *testing.T) {
	t.Parallel()
	fact(t, "a create answered 0x101 was not written, and can be sent again after logout and login")
	for _, p := range FieldProfiles {
		tok := New(p)
		s := open(t, tok)
		files := len(tok.flash.records)
		tok.AtCall(Create, 1, (*Token).LoseLogin)
		if _, err := s.Create("new", "app", []byte{1}); code(err) != pkcs11.CKRUserNotLoggedIn {
			t.Errorf("%s: %v", p.Name, err)
		}
		if len(tok.flash.records) != files {
			t.Errorf("%s: something was written", p.Name)
		}
		s.Logout()
		if err := s.Login([]byte(PIN)); err != nil {
			t.Fatal(err)
		}
		create(t, s, "new", 1)
		if got := len(list(t, open(t, tok))); got != 1 {
			t.Errorf("%s: %d objects", p.Name, got)
		}
	}
}

func TestPulledWhileReading(t *testing.T) {
	t.Parallel()
	fact(t, "after a pull, reads from memory stop within 0.3 s under constant reading")
	fact(t, "C_GenerateRandom always reaches the card")
	for _, p := range FieldProfiles {
		tok := New(p)
		s := open(t, tok)
		h := create(t, s, "a", 1)
		before := tok.Counters().APDUs
		if _, err := s.Random(1); err != nil || tok.Counters().APDUs != before+1 {
			t.Errorf("%s: random took %d APDUs, %v", p.Name, tok.Counters().APDUs-before, err)
		}
		tok.Remove()
		reads := 0
		for ; reads < 1e6; reads++ {
			if _, err := s.Value(h); err != nil {
				if code(err) != pkcs11.CKRDeviceRemoved {
					t.Errorf("%s: reads end with %v", p.Name, err)
				}
				break
			}
		}
		if reads == 0 || reads > 1200 { // At 0.26 ms each.
			t.Errorf("%s: %d reads went on after the pull", p.Name, reads)
		}
		tok.Insert()
		s = open(t, tok)
		if _, err := s.valueOf("a"); err != nil {
			t.Fatal(err)
		}
		tok.Remove()
		if _, err := s.Random(1); code(err) != pkcs11.CKRDeviceRemoved {
			t.Errorf("%s: random after the pull: %v", p.Name, err)
		}
		if _, err := s.valueOf("a"); err == nil {
			t.Errorf("%s: a process that knows of the pull reads from memory", p.Name)
		}
	}
}
