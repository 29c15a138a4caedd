// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faulttoken"
)

// secret is what an HSMSecret of so many bytes comes to.
func secret(i int, size int) func(revision uint64) token.Change {
	return func(revision uint64) token.Change {
		c := put(fmt.Sprintf("team-%d/secret-%d", i%7, i), revision, size)
		c.Record.Meta = sampleMeta(i)
		return c
	}
}

// fill creates secrets, one at a time, until the token is full.
func (s *stick) fill(want content, size func(i int) int) (content, int) {
	s.t.Helper()
	for i := 0; ; i++ {
		c, err := s.try(secret(i, size(i)))
		if token.ReasonOf(err) == token.Full {
			return want, i
		}
		if err != nil {
			s.t.Fatal(err)
		}
		want = want.apply([]token.Change{c})
		s.compact()
	}
}

// realRevisions lets revisions be as long as those of an agent.
func (s *stick) realRevisions() { s.last = 1_790_000_000_000 << 20 }

// TestPicoSecrets: so many secrets of 600 bytes fit on a Pico one by one, because
// they are compacted into common segments.
func TestPicoSecrets(t *testing.T) {
	t.Parallel()
	s := provisionWithLog(t, faulttoken.Pico66)
	s.realRevisions()
	want, stored := s.fill(newContent(), func(int) int { return 600 })
	s.reopen()
	s.expect(want)
	fmt.Printf("figure: pico-secrets-600B %d\n", stored)
	if stored < 300 {
		t.Errorf("%d secrets of 600 bytes fit, expected at least 300", stored)
	}
	c := s.token.Counters()
	t.Logf("%d creates and %d destroys, %d sectors", c.Calls[faulttoken.Create], c.Calls[faulttoken.Destroy], c.Sectors)
	if seen := len(s.token.Flash()); seen > faulttoken.Pico66.Visible {
		t.Errorf("%d objects, of which a fresh process sees %d", seen, faulttoken.Pico66.Visible)
	}
}

// TestFullForever goes on with updates of the same size and deletes on a full
// token, for thousands of times. None of them is ever refused, and no fresh
// process ever misses an object.
func TestFullForever(t *testing.T) {
	t.Parallel()
	sizes := map[string]func(r *rand.Rand) int{
		"small":  func(r *rand.Rand) int { return 10 + r.IntN(30) },
		"600":    func(*rand.Rand) int { return 600 },
		"varied": func(r *rand.Rand) int { return 20 << r.IntN(7) },
		"large":  func(r *rand.Rand) int { return 2000 + r.IntN(1900) },
	}
	for _, p := range []faulttoken.Profile{faulttoken.Pico66, faulttoken.SmartCardHSM} {
		for name, size := range sizes {
			t.Run(p.Name+" "+name, func(t *testing.T) {
				t.Parallel()
				s := provision(t, p)
				s.realRevisions()
				random := rand.New(rand.NewPCG(1, 2))
				sizes := map[int]int{}
				sizeOf := func(i int) int {
					if sizes[i] == 0 {
						sizes[i] = size(random)
					}
					return sizes[i]
				}
				want, stored := s.fill(newContent(), sizeOf)
				before := s.token.Counters()
				updates := 600
				if testing.Short() {
					updates = 60
				}
				for n := range updates {
					i := random.IntN(stored)
					c, err := s.try(secret(i, sizeOf(i)))
					if err != nil {
						t.Fatalf("update %d of a full token with %d secrets: %v", n, stored, err)
					}
					want = want.apply([]token.Change{c})
					if n%7 != 0 { // An agent that is busy compacts later.
						s.compact()
					}
					if n%200 == 0 {
						s.reopen()
						s.expect(want)
					}
				}
				after := s.token.Counters()
				t.Logf("%d secrets; %d creates and %d sectors for %d updates", stored,
					after.Calls[faulttoken.Create]-before.Calls[faulttoken.Create], after.Sectors-before.Sectors, updates)
				for n, i := range random.Perm(stored) {
					c, err := s.try(func(revision uint64) token.Change {
						return del(secret(i, 0)(1).Record.Key, revision)
					})
					if err != nil {
						t.Fatalf("delete %d of a full token: %v", n, err)
					}
					want = want.apply([]token.Change{c})
					if n%50 == 0 {
						s.reopen()
						s.expect(want)
					}
				}
				s.compact()
				if seen := len(s.token.Flash()); seen > p.Visible || len(want) > 0 {
					t.Errorf("%d objects and %d records are left", seen, len(want))
				}
			})
		}
	}
}

// TestCompactionGoesAheadOfNeed fills a token, deletes some records, and fills it again, over
// and over. A record is refused only when the token is full indeed: what compaction can
// gain for one more it has gained before that comes.
func TestCompactionGoesAheadOfNeed(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	s.realRevisions()
	random := rand.New(rand.NewPCG(1, 2))
	created, premature := 0, 0
	for range 6 {
		for full := false; !full; {
			create := secret(created, 500+random.IntN(2500))
			err := s.Commit([]token.Change{create(s.next())})
			if token.ReasonOf(err) == token.Full {
				s.compact()
				err = s.Commit([]token.Change{create(s.next())})
				if full = token.ReasonOf(err) == token.Full; !full {
					premature++
				}
			}
			if err != nil && !full {
				t.Fatal(err)
			}
			created++
			s.compact()
		}
		for range created / 6 {
			i := random.IntN(created)
			if _, err := s.try(func(revision uint64) token.Change { return del(secret(i, 0)(1).Record.Key, revision) }); err != nil {
				t.Fatal(err)
			}
			s.compact()
		}
	}
	t.Logf("%d records, of which %d were refused and fitted after compaction", created, premature)
	if premature > 0 {
		t.Errorf("%d of %d records were refused, and fitted after compaction", premature, created)
	}
}

// TestLargeValueFitsInTheEnd: 32 KiB fit on a token that has space for them once it
// is compacted; what can never fit makes no write.
func TestLargeValueFitsInTheEnd(t *testing.T) {
	t.Parallel()
	for _, p := range []faulttoken.Profile{faulttoken.Pico66, faulttoken.PicoDev} {
		s := provision(t, p)
		s.realRevisions()
		want := newContent()
		for i := range 93 { // They fill a segment each until they are compacted.
			c, err := s.try(secret(i, 600))
			if err != nil {
				t.Fatal(err)
			}
			want = want.apply([]token.Change{c})
			s.collect()
		}
		large := func(revision uint64) token.Change { return put("ns/large", revision, 32<<10) }
		if err := s.Commit([]token.Change{large(s.next())}); token.ReasonOf(err) != token.Full {
			t.Errorf("%s: before it is compacted a value of 32 KiB gave %v", p.Name, err)
		}
		c, err := s.try(large)
		if err != nil {
			t.Errorf("%s: a value of 32 KiB: %v", p.Name, err)
		}
		want = want.apply([]token.Change{c})
		s.reopen()
		s.expect(want)

		_, _ = s.fill(want, func(int) int { return 3000 })
		s.compact()
		before := s.token.Counters().Calls
		if err := s.Commit([]token.Change{put("ns/larger", s.next(), 32<<10)}); token.ReasonOf(err) != token.Full {
			t.Errorf("%s: on a full token a value of 32 KiB gave %v", p.Name, err)
		}
		s.compact()
		if after := s.token.Counters().Calls; after[faulttoken.Create] != before[faulttoken.Create] {
			t.Errorf("%s: %d creates for what cannot fit", p.Name, after[faulttoken.Create]-before[faulttoken.Create])
		}
	}
}

// TestCompactionRests: where there is space, and when all was done that can be,
// nothing is written.
func TestCompactionRests(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		s := provision(t, p)
		expectIdle := func(what string) {
			t.Helper()
			before := s.token.Counters().Calls
			for range 3 {
				if more, err := s.Compact(s.next); more || err != nil {
					t.Errorf("%s: %v, %v", what, more, err)
				}
			}
			for function, after := range s.token.Counters().Calls {
				if after != before[function] {
					t.Errorf("%s: %d calls of %s", what, after-before[function], function)
				}
			}
		}
		expectIdle("empty")
		for i := range 30 {
			if _, err := s.try(secret(i%20, 100)); err != nil {
				t.Fatal(err)
			}
			s.collect()
		}
		expectIdle("half full")
		if p.Name != faulttoken.SoftHSM.Name {
			s.fill(newContent(), func(int) int { return 300 })
			s.compact()
			expectIdle("full")
		}
	})
}

// TestCompactedRecordsKeepTheirRevisions, and what was deleted stays so, before and
// after its segment is compacted.
func TestCompactedRecordsKeepTheirRevisions(t *testing.T) {
	t.Parallel()
	s := provision(t, faulttoken.Pico66)
	want := newContent()
	do := func(change func(uint64) token.Change) {
		t.Helper()
		c, err := s.try(change)
		if err != nil {
			t.Fatal(err)
		}
		want = want.apply([]token.Change{c})
		s.collect()
	}
	remove := func(i int) func(uint64) token.Change {
		return func(revision uint64) token.Change { return del(secret(i, 0)(1).Record.Key, revision) }
	}
	for i := range 96 {
		do(secret(i, 50))
	}
	for round := range 3 {
		for i := range 4 {
			do(remove(10*round + 3*i))
		}
		head := s.Head()
		s.compact()
		if round == 0 && s.Head() == head {
			t.Fatal("nothing was compacted")
		}
		s.expect(want)
		s.reopen()
		s.expect(want)
		for i := range 13 {
			do(secret(100+20*round+i, 50))
		}
	}
	for i := range 50 {
		do(remove(i))
		s.compact()
	}
	s.reopen()
	s.expect(want)
}
