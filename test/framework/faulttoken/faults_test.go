// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"fmt"
	"slices"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
)

func TestPullAndReturn(t *testing.T) {
	t.Parallel()
	fact(t, "token pulled: CKR_DEVICE_REMOVED, finds still answer from memory, then 0xB3 and 0xE0")
	fact(t, "a new session and login cure a pull")
	for _, p := range FieldProfiles {
		tok := New(p)
		s := open(t, tok)
		h := create(t, s, "a", 1)
		tok.Remove()
		if _, err := s.Objects(); err != nil {
			t.Errorf("%s: a find gave %v", p.Name, err)
		}
		for _, want := range []uint{pkcs11.CKRDeviceRemoved, pkcs11.CKRSessionHandleInvalid, pkcs11.CKRSessionHandleInvalid} {
			if err := s.Destroy(h); code(err) != want {
				t.Errorf("%s: destroy gave %v, expected %#x", p.Name, err, want)
			}
		}
		if _, err := tok.Open(); code(err) != pkcs11.CKRTokenNotPresent || tok.Present() {
			t.Errorf("%s: opening it gave %v", p.Name, err)
		}
		tok.Insert()
		if err := s.Destroy(h); code(err) != pkcs11.CKRSessionHandleInvalid {
			t.Errorf("%s: the old session gave %v", p.Name, err)
		}
		if _, err := open(t, tok).valueOf("a"); err != nil {
			t.Errorf("%s: the new session gave %v", p.Name, err)
		}
	}
}

func TestPCSCDDies(t *testing.T) {
	t.Parallel()
	fact(t, "pcscd dies: CKR_GENERAL_ERROR, then 0xB3; a new session cures it, and nothing is lost")
	tok := New(PicoNext)
	tok.Forget(Forgets{Creates: 1})
	s := open(t, tok)
	create(t, s, "a", 1)
	tok.RestartPCSCD()
	for _, want := range []uint{pkcs11.CKRGeneralError, pkcs11.CKRSessionHandleInvalid} {
		if _, err := s.Random(1); code(err) != want {
			t.Errorf("%v, expected %#x", err, want)
		}
	}
	if got := len(list(t, open(t, tok))); got != 1 {
		t.Errorf("%d objects", got)
	}
}

// TestCleanCuts cuts the power at each step of updates.
func TestCleanCuts(t *testing.T) {
	t.Parallel()
	fact(t, "power cut between two sector writes: old objects whole, the new one absent or whole")
	fact(t, "clean cuts: no acknowledged write is wrong")
	for _, p := range FieldProfiles {
		for step := 1; step <= 4; step++ {
			for _, after := range []bool{false, true} {
				tok := New(p)
				s := open(t, tok)
				old := create(t, s, "old", 600)
				create(t, s, "other", 600)
				tok.CutAt(step, after)
				_, err := s.Create("new", "app", make([]byte, 600))
				acknowledged := err == nil
				_ = s.Destroy(old)
				fresh := open(t, tok)
				if value, err := fresh.valueOf("other"); err != nil || len(value) != 600 {
					t.Errorf("%s: step %d: another object gave %v", p.Name, step, err)
				}
				if value, err := fresh.valueOf("new"); acknowledged && (err != nil || len(value) != 600) {
					t.Errorf("%s: step %d: what was acknowledged gave %v", p.Name, step, err)
				}
				if _, err := fresh.valueOf("old"); !acknowledged && err != nil {
					t.Errorf("%s: step %d: the old object gave %v", p.Name, step, err)
				}
			}
		}
	}
}

func TestCutsWithShortAPDUs(t *testing.T) {
	t.Parallel()
	fact(t, "with short APDUs older values were lost at 6 of 40 points of a create")
	tok := New(Pico66With1M)
	tok.SetReader(Reader{ShortAPDUs: true})
	s := open(t, tok)
	for i := range 20 {
		create(t, s, fmt.Sprint(i), 100)
	}
	for range 40 {
		s := open(t, tok)
		tok.CutAt(1, true)
		if _, err := s.Create("new", "app", make([]byte, 100)); err == nil {
			t.Fatal("the create was not cut")
		}
	}
	lost := 0
	for _, o := range tok.Flash() {
		if o.Broken {
			lost++
		}
	}
	if lost != 6 {
		t.Errorf("%d values were lost", lost)
	}
}

func TestCutInsideAnErase(t *testing.T) {
	t.Parallel()
	fact(t, "a power cut inside a sector erase: the token no longer boots, all is lost")
	for _, p := range FieldProfiles {
		tok := New(p)
		s := open(t, tok)
		create(t, s, "a", 1)
		tok.AtStep(1, false, (*Token).CutInErase)
		if _, err := s.Create("b", "app", []byte{1}); err == nil {
			t.Errorf("%s: the create worked", p.Name)
		}
		tok.Remove()
		tok.Insert()
		if _, err := tok.Open(); code(err) != pkcs11.CKRTokenNotPresent {
			t.Errorf("%s: opening it gave %v", p.Name, err)
		}
		if err := tok.InitToken(SOPIN, nil); err == nil {
			t.Errorf("%s: it could be initialised", p.Name)
		}
	}
}

func TestLostAfterOK(t *testing.T) {
	t.Parallel()
	fact(t, "6.6: an object can be gone after a power cut soon after its create said CKR_OK")
	tok := New(Pico66With1M)
	s := open(t, tok)
	create(t, s, "old", 100)
	files := len(tok.flash.records)
	create(t, s, "new", 100)
	tok.Forget(Forgets{Creates: 1})
	tok.PowerCut()
	if seen := list(t, open(t, tok)); len(seen) != 1 || seen[0].Label != "old" || len(tok.flash.records) != files {
		t.Errorf("there are %v, %d files more", seen, len(tok.flash.records)-files)
	}
}

// TestUndoneDestroys: files come back where nothing has taken their place.
func TestUndoneDestroys(t *testing.T) {
	t.Parallel()
	for _, broken := range []bool{false, true} {
		tok := New(Pico66With1M)
		s := open(t, tok)
		for i := range 4 {
			create(t, s, fmt.Sprint(i), 500)
		}
		for range 2 {
			if err := s.Destroy(list(t, s)[1].Handle); err != nil {
				t.Fatal(err)
			}
		}
		create(t, s, "n", 500)
		tok.Forget(Forgets{Destroys: 2, Broken: broken})
		tok.PowerCut()
		var seen []string
		for _, o := range tok.Flash() {
			seen = append(seen, fmt.Sprint(o.Label, " ", o.Broken))
		}
		if want := []string{"0 false", "n false", fmt.Sprint("2 ", broken), "3 false"}; !slices.Equal(seen, want) {
			t.Errorf("there are %q, expected %q", seen, want)
		}
	}
}

// TestEvents: what happens from outside comes at its call or step, once.
func TestEvents(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		event Event
		code  uint
	}{
		"unplug":         {(*Token).Remove, pkcs11.CKRDeviceRemoved},
		"power cut":      {(*Token).PowerCut, pkcs11.CKRGeneralError},
		"pcscd":          {(*Token).RestartPCSCD, pkcs11.CKRGeneralError},
		"login lost":     {(*Token).LoseLogin, pkcs11.CKRUserNotLoggedIn},
		"cut in erase":   {(*Token).CutInErase, pkcs11.CKRGeneralError},
		"several things": {func(t *Token) { t.LoseLogin(); t.Remove() }, pkcs11.CKRDeviceRemoved},
	} {
		for _, function := range []string{"", Create} {
			tok := New(PicoNext)
			s := open(t, tok)
			tok.AtCall(function, 3, row.event)
			create(t, s, "1", 1)
			create(t, s, "2", 1)
			if _, err := s.Create("3", "app", []byte{1}); code(err) != row.code {
				t.Errorf("%s: call 3 gave %v", name, err)
			}
			if got := len(tok.Flash()); got != 2 {
				t.Errorf("%s: %d objects", name, got)
			}
		}
		tok := New(PicoNext)
		s := open(t, tok)
		create(t, s, "1", 1)
		steps := tok.Steps()
		tok.AtStep(2, false, row.event)
		if _, err := s.Create("2", "app", []byte{1}); code(err) != row.code || tok.Steps() != steps+2 {
			t.Errorf("%s: between value and description: %v", name, err)
		}
		if got := len(tok.Flash()); got != 1 {
			t.Errorf("%s: %d objects", name, got)
		}
	}
	tok := New(PicoNext)
	tok.AtCall("", 1, (*Token).Remove)
	tok.Mend()
	open(t, tok)
}
