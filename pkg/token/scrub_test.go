// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"slices"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// scrub is what an agent does: a new session, after the module forgot all.
func (s *stick) scrub() token.RecoveryReport {
	s.t.Helper()
	session, err := s.token.Open()
	if err != nil {
		s.t.Fatal(err)
	}
	f, err := s.Scrub(session)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

func TestScrub(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		s := provisionWithLog(t, p)
		want := newContent()
		for _, changes := range history {
			s.commit(changes...)
			want = want.apply(changes)
		}
		s.collect()
		objects := len(s.token.Flash())
		before := s.token.Counters().Calls
		f := s.scrub()
		after := s.token.Counters().Calls
		if f.Log != token.LogCurrent || len(f.Restored)+len(f.Quarantined)+len(f.Changed)+f.Superseded != 0 {
			t.Errorf("of a whole store: %+v", f)
		}
		for function, want := range map[string]int{
			faulttoken.Read: objects, faulttoken.Login: 1, faulttoken.Derive: 1, faulttoken.Create: 0, faulttoken.Destroy: 0,
		} {
			if got := after[function] - before[function]; got != want {
				t.Errorf("scrubbing %d objects took %d calls of %s, expected %d", objects, got, function, want)
			}
		}

		// Damage that a caching module does not show.
		s.token.Change("segment-0000000000000018", func(o *faulttoken.Object) bool { o.Value[70] ^= 1; return true })
		s.token.Change("segment-000000000000000b", func(*faulttoken.Object) bool { return false })
		s.token.Put(faulttoken.Object{Label: "segment-0000000000000001", Application: application, Value: []byte("torn")})
		f = s.scrub()
		if !slices.Equal(f.Restored, []string{"segment-000000000000000b", "segment-0000000000000018"}) || !slices.Equal(f.Quarantined, []string{"segment-0000000000000001"}) || len(f.Changed) > 0 {
			t.Errorf("of a damaged store: %+v", f)
		}
		s.expect(want)

		// Another agent has been at it.
		other := &stick{t: t, token: s.token, id: s.id}
		other.reopen()
		changes := []token.Change{put("ns/b", 100, 5), del("ns/c", 101), put("ns/new", 102, 1)}
		other.commit(changes...)
		want = want.apply(changes)
		f = s.scrub()
		if f.Log != token.LogStale || !slices.Equal(f.Changed, []string{"ns/b", "ns/c", "ns/new"}) {
			t.Errorf("of a store that was changed: %+v", f)
		}
		s.expect(want)
		s.commit(put("ns/after", s.next(), 3))

		// Nothing is served when it fails.
		s.token.Put(faulttoken.Object{Label: "segment-00000000000fffff", Application: application, Value: []byte("torn")})
		session, err := s.token.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Scrub(session); token.ReasonOf(err) != token.Corrupt {
			t.Errorf("of a store that is corrupt: %v", err)
		}
		if _, err := s.Data("ns/b"); token.ReasonOf(err) != token.Stale {
			t.Errorf("a read after it gave %v", err)
		}
	})
}
