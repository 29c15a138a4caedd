// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// TestCosts counts what each act asks of the token.
func TestCosts(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	expect := func(what string, want map[string]int, act func()) {
		t.Helper()
		before := s.token.Counters().Calls
		act()
		for function, after := range s.token.Counters().Calls {
			if got := after - before[function]; got != want[function] {
				t.Errorf("%s: %d calls of %s, expected %d", what, got, function, want[function])
			}
		}
	}
	get := func(key string) func() {
		return func() {
			if _, err := s.Data(key); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect("create", map[string]int{faulttoken.Create: 1}, func() { s.commit(put("ns/a", 1, 600)) })
	expect("update", map[string]int{faulttoken.Create: 1}, func() { s.commit(put("ns/a", 2, 600)) })
	expect("five creates together", map[string]int{faulttoken.Create: 1}, func() {
		s.commit(put("ns/b", 3, 600), put("ns/c", 4, 600), put("ns/d", 5, 600), put("ns/e", 6, 600), put("ns/f", 7, 0))
	})
	expect("delete", map[string]int{faulttoken.Create: 1}, func() { s.commit(del("ns/b", 8)) })
	expect("a record of three segments", map[string]int{faulttoken.Create: 3}, func() { s.commit(put("ns/long", 9, 9000)) })
	expect("get", map[string]int{faulttoken.Read: 1}, get("ns/a"))
	expect("get of one of five", map[string]int{faulttoken.Read: 1}, get("ns/e"))
	expect("get without data", map[string]int{faulttoken.Read: 1}, get("ns/f"))
	expect("get of three segments", map[string]int{faulttoken.Read: 3}, get("ns/long"))
	expect("no change", nil, func() { s.commit() })
	expect("collecting", map[string]int{faulttoken.Destroy: 1}, s.collect) // commit 1
	expect("collecting again", nil, s.collect)
	expect("opening", map[string]int{
		faulttoken.Login: 1, faulttoken.Derive: 1, faulttoken.Read: len(s.token.Flash()), faulttoken.Find: 2, faulttoken.FindKeys: 1, // objects, key pair
	}, s.reopen)
}

// TestInvalidChanges are refused before the token is touched.
func TestInvalidChanges(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	s.commit(put("ns/a", 10, 1))
	early := put("ns/b", 11, 1)
	early.Record.DataRevision = 12
	address := put("ns/b", 11, 1)
	address.Record.Address = strings.Repeat("x", 1025)
	meta := put("ns/b", 11, 1)
	meta.Record.Meta = make([]byte, 5<<20)
	before := s.token.Counters().Calls
	for name, test := range map[string]struct {
		changes []token.Change
		want    token.Reason
	}{
		"the revision of the head":       {[]token.Change{put("ns/b", 10, 1)}, token.Internal},
		"an older revision":              {[]token.Change{put("ns/b", 9, 1)}, token.Internal},
		"the same revision twice":        {[]token.Change{put("ns/b", 11, 1), put("ns/c", 11, 1)}, token.Internal},
		"revisions that fall":            {[]token.Change{put("ns/b", 12, 1), put("ns/c", 11, 1)}, token.Internal},
		"a data revision of the future":  {[]token.Change{early}, token.Internal},
		"no key":                         {[]token.Change{put("", 11, 1)}, token.Invalid},
		"a long key":                     {[]token.Change{put(strings.Repeat("x", 1025), 11, 1)}, token.Invalid},
		"a long address":                 {[]token.Change{address}, token.Invalid},
		"endless metadata":               {[]token.Change{meta}, token.TooLarge},
		"data over the limit":            {[]token.Change{put("ns/b", 11, 64<<10+1)}, token.TooLarge},
		"data and all at the limit":      {[]token.Change{put("ns/b", 11, 64<<10)}, token.TooLarge},
		"the last of a batch over limit": {[]token.Change{put("ns/b", 11, 1), put("ns/c", 12, 64<<10)}, token.TooLarge},
	} {
		err := s.Commit(test.changes)
		if err == nil || token.ReasonOf(err) != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for function, after := range s.token.Counters().Calls {
		if after != before[function] {
			t.Errorf("%d calls of %s", after-before[function], function)
		}
	}
	s.commit(put("ns/b", 11, 64<<10-200))
}

// TestUnknownOutcome lets a create fail in every way, done or not. What the
// store says must be what a fresh process then finds, now and later.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		for _, code := range []uint{
			pkcs11.CKRGeneralError, pkcs11.CKRDeviceError, pkcs11.CKRDeviceRemoved, pkcs11.CKRUserNotLoggedIn,
			pkcs11.CKRFunctionFailed, pkcs11.CKRDeviceMemory, pkcs11.CKRDataLenRange,
		} {
			for _, done := range []bool{false, true} {
				for failing := range 2 { // the only create, or the first of several
					name := fmt.Sprintf("code %#x, done %v, part %d", code, done, failing)
					s := provision(t, p)
					s.commit(put("ns/a", 1, 10))
					before := read(t, s.Store)
					changes := []token.Change{put("ns/a", 2, failing*p.MaxBytes*3/2), put("ns/b", 3, 5)}
					if p.Name == faulttoken.SoftHSM.Name {
						changes[0] = put("ns/a", 2, failing*100<<10)
					} else if failing == 1 {
						changes[0] = put("ns/a", 2, 5000)
					}
					after := before.apply(changes)
					s.token.Fail(faulttoken.Create, faulttoken.Fault{Code: code, Done: done})
					err := s.Commit(changes)
					var deviceError *pkcs11.Error
					if err != nil && (!errors.As(err, &deviceError) || deviceError.Code != code) {
						t.Errorf("%s: the error does not carry the token's: %v", name, err)
					}
					reason := token.ReasonOf(err)
					if reason == token.Full || reason == token.TooLarge {
						// Still usable, and the next commit keeps the failed one down.
						s.expect(before)
						s.commit(put("ns/c", 4, 1))
						before = before.apply([]token.Change{put("ns/c", 4, 1)})
						s.expect(before)
						s.collect()
					} else if err != nil {
						if err := s.Commit([]token.Change{put("ns/c", 4, 1)}); token.ReasonOf(err) != token.Stale {
							t.Errorf("%s: the next commit gave %v", name, err)
						}
						if _, err := s.Data("ns/a"); token.ReasonOf(err) != token.Stale {
							t.Errorf("%s: the next read gave %v", name, err)
						}
						if _, err := s.CollectGarbage(); token.ReasonOf(err) != token.Stale {
							t.Errorf("%s: the next collection gave %v", name, err)
						}
					}
					s.reopen()
					want := before
					if err == nil || reason == token.OutcomeUnknown && s.Contains(3) {
						want = after
					}
					if reason == token.OutcomeUnknown && s.Contains(3) != done {
						t.Errorf("%s: the commit is there: %v", name, s.Contains(3))
					}
					s.expect(want)
					s.commit(put("ns/d", 5, 1))
					want = want.apply([]token.Change{put("ns/d", 5, 1)})
					s.collect()
					s.reopen()
					s.expect(want)
				}
			}
		}
	})
}

// TestFailedCalls: a lost login, a failed destroy and a removal leave a store that can be opened again.
func TestFailedCalls(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	s.commit(put("ns/a", 1, 10))
	s.commit(put("ns/a", 2, 10))
	s.commit(put("ns/a", 3, 10))
	want := read(t, s.Store)

	s.reopen()
	s.token.LoseLogin()
	_, err := s.Data("ns/a")
	if pkcs11.ClassOf(err) != pkcs11.ClassRelogin {
		t.Errorf("a read without a login gave %v", err)
	}
	s.reopen()
	s.expect(want)

	s.token.Fail(faulttoken.Destroy, faulttoken.Fault{Code: pkcs11.CKRGeneralError})
	if _, err := s.CollectGarbage(); err != nil || s.Usage().Stuck != 1 {
		t.Errorf("a destroy that failed although the token answers gave %v, %+v", err, s.Usage())
	}
	s.reopen()
	s.token.LoseLogin()
	if more, err := s.CollectGarbage(); !more || pkcs11.ClassOf(err) != pkcs11.ClassRelogin {
		t.Errorf("a destroy without a login gave %v, %v", more, err)
	}
	s.reopen()
	s.collect()
	s.token.Remove()
	if _, err = s.Data("ns/a"); pkcs11.ClassOf(err) != pkcs11.ClassReconnect || token.ReasonOf(err) != 0 {
		t.Errorf("a read of a removed token gave %v", err)
	}
	s.token.Insert()
	s.reopen()
	s.expect(want)
}

// TestObjectGone: what another process destroys is an error, never an absent record.
func TestObjectGone(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		s := provision(t, p)
		s.commit(put("ns/a", 1, 10))
		s.commit(put("ns/b", 2, 10))
		s.reopen()
		session, err := s.token.Open()
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := token.Open(session, token.Options{StoreID: s.id})
		if err != nil {
			t.Fatal(err)
		}
		s.token.Change("segment-0000000000000001", func(*faulttoken.Object) bool { return false })
		if _, err := fresh.Data("ns/a"); err == nil && !p.Memory {
			t.Error("a record whose object is gone was read")
		}
		if _, err := s.open(token.Options{StoreID: s.id}); token.ReasonOf(err) != token.Corrupt {
			t.Errorf("opening a store with a lost segment gave %v", err)
		}
	})
}
