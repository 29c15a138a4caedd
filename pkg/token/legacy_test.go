// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// TestLegacy lists what the older operator left, and leaves it alone.
func TestLegacy(t *testing.T) {
	t.Parallel()
	tok := faulttoken.New(faulttoken.Pico66)
	for _, label := range []string{
		"app/password", "app/user", "app/_metadata",
		"app2/password", // without metadata
		"single", "single/_metadata",
		"secrets/default/db/password", "secrets/default/db/_metadata",
		"secrets/default/one", "secrets/default/one/_metadata", // the key is "data"
		"plain", "twice/key", "twice/key", "orphan/_metadata",
	} {
		tok.Put(faulttoken.Object{Label: label, Application: "hsm-secrets-operator", Value: []byte("v")})
	}
	tok.Put(faulttoken.Object{Label: "other/password", Application: "someone else", Value: []byte("v")})
	s := &stick{t: t, token: tok}
	before := tok.Flash()
	store, err := s.open(token.Options{Provision: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []token.Legacy{
		{Name: "app", Keys: []string{"password", "user"}, Metadata: true},
		{Name: "app2", Keys: []string{"password"}},
		{Name: "orphan", Metadata: true},
		{Name: "plain", Keys: []string{"data"}},
		{Name: "secrets/default/db", Keys: []string{"password"}, Metadata: true},
		{Name: "secrets/default/one", Keys: []string{"data"}, Metadata: true},
		{Name: "single", Keys: []string{"data"}, Metadata: true},
		{Name: "twice", Keys: []string{"key", "key"}},
	}
	if got := store.Legacy(); !reflect.DeepEqual(got, want) {
		t.Errorf("found %+v, expected %+v", got, want)
	}
	s.Store, s.id = store, store.ID()
	for i := range 120 {
		if _, err := s.try(secret(i%50, 300)); err != nil {
			t.Fatal(err)
		}
		s.compact()
	}
	left := slices.DeleteFunc(tok.Flash(), func(o faulttoken.Object) bool { return o.Application == application })
	if !sameFlash(left, before) {
		t.Errorf("there are left %v", left)
	}
	if u := s.Usage(); u.Legacy != 14 || u.Foreign != 15 {
		t.Errorf("usage is %+v", u)
	}
}

// TestUsage fits what can be added to what is told.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, p := range []faulttoken.Profile{faulttoken.Pico66, faulttoken.SmartCardHSM} {
		s := provision(t, p)
		s.token.Put(others)
		s.reopen()
		s.realRevisions()
		u := s.Usage()
		if u.FreeObjects != u.Profile.Objects-u.Profile.Reserve-2 || u.FreeBytes <= 0 || u.FreeBytes > u.FreeObjects*u.Profile.SegmentBytes || u.Objects != 2 || u.Foreign != 1 {
			t.Errorf("%s: at first %+v", p.Name, u)
		}
		for i := 0; ; i++ {
			before := s.Usage()
			c := put(fmt.Sprintf("ns/%d", i), s.next(), 700)
			err := s.Commit([]token.Change{c})
			after := s.Usage()
			if err != nil {
				if token.ReasonOf(err) != token.Full || before.FreeObjects > 0 && before.FreeBytes > 1200 {
					t.Errorf("%s: with %+v creating number %d gave %v", p.Name, before, i, err)
				}
				break
			}
			if before.FreeObjects == 0 || after.FreeObjects != before.FreeObjects-1 || after.FreeBytes >= before.FreeBytes {
				t.Errorf("%s: creating one took it from %+v to %+v", p.Name, before, after)
			}
		}
	}
}
