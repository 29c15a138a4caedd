// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"bytes"
	"fmt"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
)

func TestSetAttributeValue(t *testing.T) {
	t.Parallel()
	fact(t, "C_SetAttributeValue fails through OpenSC, leaves an orphan and a wrong cache, and the next create crashes")
	fact(t, "SoftHSM answers CKR_ATTRIBUTE_READ_ONLY")
	s := open(t, New(SoftHSM))
	if err := s.SetValue(create(t, s, "a", 1), []byte{2}); code(err) != ckrAttributeReadOnly {
		t.Error(err)
	}
	tok := New(PicoNext)
	s = open(t, tok)
	h := create(t, s, "a", 1)
	before := len(tok.flash.records)
	if err := s.SetValue(h, []byte{2}); code(err) != pkcs11.CKRGeneralError {
		t.Error(err)
	}
	if value, err := s.Value(h); err != nil || value[0] != 2 {
		t.Errorf("the process reads %v, %v", value, err)
	}
	if value, err := open(t, tok).valueOf("a"); err != nil || value[0] != 0 {
		t.Errorf("a fresh process reads %v, %v", value, err)
	}
	if got := len(tok.flash.records) - before; got != 1 {
		t.Errorf("%d orphans", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("the next create did not crash")
		}
	}()
	_, _ = s.Create("b", "app", []byte{1})
}

func TestCreateIsAllOrNothing(t *testing.T) {
	t.Parallel()
	fact(t, "the value is written first and the description last: a create is all or nothing")
	for _, p := range FieldProfiles {
		for step := 1; step <= 2; step++ {
			for _, after := range []bool{false, true} {
				tok := New(p)
				s := open(t, tok)
				create(t, s, "old", 3000)
				tok.CutAt(step, after)
				if _, err := s.Create("new", "app", make([]byte, 3000)); code(err) != pkcs11.CKRGeneralError {
					t.Errorf("%s: %v", p.Name, err)
				}
				seen := list(t, open(t, tok))
				if whole := step == 2 && after; whole != (len(seen) == 2) {
					t.Errorf("%s: step %d, after %v: %d objects", p.Name, step, after, len(seen))
				}
			}
		}
	}
}

// half gives a token with an object that a cut has half destroyed.
func half(t *testing.T, p Profile, event Event) *Token {
	t.Helper()
	tok := New(p)
	s := open(t, tok)
	h := create(t, s, "half", 600)
	create(t, s, "whole", 600)
	tok.AtStep(2, false, event)
	if err := s.Destroy(h); err == nil {
		t.Fatal("the destroy was not cut")
	}
	tok.Insert()
	return tok
}

func TestHalfDestroyedObject(t *testing.T) {
	t.Parallel()
	for _, p := range FieldProfiles {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			fact(t, "a destroy cut half way by an unplug leaves the description without its value")
			tok := half(t, p, (*Token).Remove)
			fact(t, "its value gives CKR_GENERAL_ERROR while the token answers")
			s := open(t, tok)
			if _, err := s.valueOf("half"); code(err) != pkcs11.CKRGeneralError {
				t.Errorf("reading it: %v", err)
			}
			if _, err := s.Random(1); err != nil {
				t.Errorf("the token does not answer: %v", err)
			}
			fact(t, "it can never be destroyed: each C_DestroyObject gives CKR_GENERAL_ERROR")
			for range 3 {
				s = open(t, tok)
				if err := s.Destroy(s.list[0].Handle); code(err) != pkcs11.CKRGeneralError {
					t.Errorf("destroying it: %v", err)
				}
				if _, err := s.Random(1); err != nil {
					t.Errorf("the token does not answer: %v", err)
				}
				tok.PowerCut()
			}
			fact(t, "its slot is lost until the token is initialised anew")
			s = open(t, tok)
			if err := s.Destroy(s.list[1].Handle); err != nil {
				t.Error(err)
			}
			if got := len(list(t, open(t, tok))); got != 1 {
				t.Errorf("%d objects are left", got)
			}
			if err := tok.InitToken(SOPIN, nil); err != nil {
				t.Fatal(err)
			}
			if got := len(list(t, open(t, tok))); got != 0 {
				t.Errorf("%d objects are left after initialising", got)
			}
		})
	}
}

func TestErrorAlthoughStored(t *testing.T) {
	t.Parallel()
	fact(t, "an error from C_CreateObject does not mean that nothing was stored")
	tok := New(Pico66With1M)
	s := open(t, tok)
	tok.AtStep(2, true, (*Token).Remove)
	if _, err := s.Create("new", "app", []byte{7}); code(err) != pkcs11.CKRDeviceRemoved {
		t.Error(err)
	}
	tok.Insert()
	if value, err := open(t, tok).valueOf("new"); err != nil || !bytes.Equal(value, []byte{7}) {
		t.Errorf("after a lost device there is %v, %v", value, err)
	}
}

func TestFindOnPico(t *testing.T) {
	t.Parallel()
	fact(t, "finds match exactly, duplicates are allowed, and a find never touches the card")
	tok := New(Pico66With1M)
	s := open(t, tok)
	create(t, s, "a", 1)
	create(t, s, "a", 1)
	if _, err := s.GenerateKeyPair("key-1"); err != nil {
		t.Fatal(err)
	}
	before := tok.Counters().APDUs
	if got := len(list(t, s)); got != 2 {
		t.Errorf("%d objects", got)
	}
	if pair, err := s.KeyPair("key"); pair != nil || err != nil {
		t.Errorf("a part of the label finds %v, %v", pair, err)
	}
	if got := tok.Counters().APDUs; got != before {
		t.Errorf("finds took %d APDUs", got-before)
	}
}

func TestHandlesChange(t *testing.T) {
	t.Parallel()
	fact(t, "handles change after a reconnect")
	tok := New(PicoNext)
	h := create(t, open(t, tok), "a", 1)
	tok.Remove()
	tok.Insert()
	if again := list(t, open(t, tok))[0].Handle; again == h {
		t.Error("the handle is the same")
	}
}

func TestNamesWithoutPIN(t *testing.T) {
	t.Parallel()
	fact(t, "labels and applications can be read without the PIN, private values cannot")
	fact(t, "flash holds private values unencrypted")
	tok := New(PicoNext)
	if _, err := open(t, tok).Create("a", "app", []byte("value")); err != nil {
		t.Fatal(err)
	}
	s, err := tok.OpenSession()
	if err != nil {
		t.Fatal(err)
	}
	if seen := list(t, s); len(seen) != 1 || seen[0].Label != "a" || seen[0].Application != "app" {
		t.Errorf("without a login: %v", seen)
	}
	if _, err := s.valueOf("a"); code(err) != pkcs11.CKRUserNotLoggedIn {
		t.Errorf("reading it without a login: %v", err)
	}
	if got := tok.Flash()[0].Value; string(got) != "value" {
		t.Errorf("flash holds %q", got)
	}
}

func TestOneFindAtATime(t *testing.T) {
	t.Parallel()
	fact(t, "a read during another's find gives CKR_OPERATION_ACTIVE")
	s := open(t, New(PicoNext))
	h := create(t, s, "a", 1)
	s.BeginFind()
	if _, err := s.Value(h); code(err) != ckrOperationActive {
		t.Error(err)
	}
	if _, err := s.Objects(); code(err) != ckrOperationActive {
		t.Error(err)
	}
	s.EndFind()
	if _, err := s.Value(h); err != nil {
		t.Error(err)
	}
}

func TestOrphanIsReclaimed(t *testing.T) {
	t.Parallel()
	fact(t, "6.6: a create of 4,033 bytes leaves an invisible orphan that the next create reclaims")
	fact(t, "next: a create of 4,033 bytes returns CKR_OK")
	tok := New(Pico66With1M)
	s := open(t, tok)
	create(t, s, "first", 100)
	empty := len(tok.flash.records)
	if _, err := s.Create("large", "app", make([]byte, 4033)); code(err) != pkcs11.CKRGeneralError {
		t.Error(err)
	}
	if seen := len(list(t, open(t, tok))); seen != 1 || len(tok.flash.records) != empty+1 {
		t.Errorf("%d objects are seen, %d files", seen, len(tok.flash.records)-empty)
	}
	h := create(t, s, "second", 100)
	if seen := len(list(t, open(t, tok))); seen != 2 || len(tok.flash.records) != empty+2 {
		t.Errorf("after the next create %d objects are seen, %d files", seen, len(tok.flash.records)-empty)
	}
	if err := s.Destroy(h); err != nil || len(tok.flash.records) != empty {
		t.Errorf("destroying it: %v, %d files", err, len(tok.flash.records)-empty)
	}
	s = open(t, New(PicoNext))
	if err := s.Destroy(create(t, s, "large", 4033)); err != nil {
		t.Error(err)
	}
}

func TestTellingFirmwareApart(t *testing.T) {
	t.Parallel()
	fact(t, "only the hardware version, the SDK's, tells 6.6 (8.6) from newer firmware (9.0)")
	old, next := New(Pico66With1M).Info(), New(PicoNext).Info()
	if old.HardwareVersion != "8.6" || next.HardwareVersion != "9.0" {
		t.Errorf("%q and %q", old.HardwareVersion, next.HardwareVersion)
	}
	next.HardwareVersion = old.HardwareVersion
	if fmt.Sprint(old) != fmt.Sprint(next) || old.FirmwareVersion != "6.6" {
		t.Errorf("%+v is not %+v", old, next)
	}
}
