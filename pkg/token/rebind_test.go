// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"errors"
	"os"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// A scrub that finds a damaged object which the log does not hold is a failure of
// housekeeping: the store goes on as it was, in the new session.
func TestStoreGoesOnAfterAScrubOfDamage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *stick)
		goesOn bool
	}{
		"an object is damaged": {func(*stick) {}, true},
		"others have written too": {func(s *stick) {
			other := &stick{t: s.t, token: s.token, id: s.id}
			other.token.Put(faulttoken.Object{Label: "segment-00000000000fffff", Application: application, Value: []byte("torn")})
		}, false},
		"an object is gone too": {func(s *stick) {
			s.token.Change("segment-0000000000000001", func(*faulttoken.Object) bool { return false })
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := provisionWithLog(t, faulttoken.Pico66)
			s.commit(put("a", 1, 1))
			s.commit(put("b", 2, 1))
			s.commit(put("c", 3, 1))
			s.token.Change("segment-0000000000000002", func(o *faulttoken.Object) bool { o.Value[70] ^= 1; return true })
			if err := os.Remove(s.logPath()); err != nil {
				t.Fatal(err)
			}
			c.change(s)
			session, err := s.token.Open()
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Scrub(session)
			var failure *token.HousekeepingError
			if !errors.As(err, &failure) || s.Stale() == c.goesOn {
				t.Fatalf("scrub says %v, and the store is stale: %t", err, s.Stale())
			}
			if !c.goesOn {
				return
			}
			for _, key := range []string{"a", "c"} {
				if _, err := s.Data(key); err != nil {
					t.Errorf("reading %q: %v", key, err)
				}
			}
			if _, err := s.Data("b"); token.ReasonOf(err) != token.Corrupt {
				t.Errorf("reading the damaged record: %v", err)
			}
			s.commit(put("a", 4, 2))
			s.commit(put("a", 5, 2))
			s.collect()
			if _, err := s.Data("a"); err != nil {
				t.Error(err)
			}
		})
	}
}
