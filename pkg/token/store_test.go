// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/pkg/token/wal"
	"j5t.io/hsm/test/framework/faultfs"
	"j5t.io/hsm/test/framework/faulttoken"
)

// stick is a fault token and the store that is open on it, and the state
// directory of the agent that opens it.
type stick struct {
	t     *testing.T
	token *faulttoken.Token
	*token.Store
	id   string
	dir  string      // Empty: no log is kept.
	disk *faultfs.FS // Of the running agent.
	last uint64      // The highest revision given.
	// profile is zero for that of the token.
	profile token.Profile
}

func provision(t *testing.T, p faulttoken.Profile) *stick {
	t.Helper()
	s := &stick{t: t, token: faulttoken.New(p)}
	store, err := s.open(token.Options{Provision: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Store, s.id = store, store.ID()
	return s
}

// provisionWithLog is provision by an agent that keeps a log.
func provisionWithLog(t *testing.T, p faulttoken.Profile) *stick {
	t.Helper()
	s := &stick{t: t, token: faulttoken.New(p), dir: t.TempDir()}
	store, err := s.open(token.Options{Provision: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Store, s.id = store, store.ID()
	return s
}

// clone copies the token and the state directory.
func (s *stick) clone() *stick {
	s.t.Helper()
	c := &stick{t: s.t, token: s.token.Clone(), id: s.id}
	if s.dir != "" {
		c.dir = s.t.TempDir()
		if err := os.CopyFS(c.dir, os.DirFS(s.dir)); err != nil {
			s.t.Fatal(err)
		}
	}
	return c
}

func (s *stick) logPath() string { return filepath.Join(s.dir, "shadow") }

func (s *stick) open(o token.Options) (*token.Store, error) {
	s.t.Helper()
	session, err := s.token.Open()
	if err != nil {
		s.t.Fatal(err)
	}
	if s.dir != "" {
		s.disk = faultfs.New(0, faultfs.Before)
		o.Log = wal.New(s.disk, s.logPath())
	}
	o.Profile = s.profile
	store, err := token.Open(session, o)
	if err == nil {
		s.check(store)
	}
	return store, err
}

// check checks what always holds of a store.
func (s *stick) check(store *token.Store) {
	s.t.Helper()
	if err := store.CheckInvariants(); err != nil {
		s.t.Error(err)
	}
}

// reopen is a fresh process.
func (s *stick) reopen() {
	s.t.Helper()
	store, err := s.open(token.Options{StoreID: s.id})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Store = store
}

func (s *stick) commit(changes ...token.Change) {
	s.t.Helper()
	if err := s.Commit(changes); err != nil {
		s.t.Fatal(err)
	}
	s.check(s.Store)
}

func (s *stick) collect() {
	s.t.Helper()
	for more := true; more; {
		var err error
		if more, err = s.CollectGarbage(); err != nil {
			s.t.Fatal(err)
		}
		s.check(s.Store)
	}
}

// compact makes space as long as there is any to be made.
func (s *stick) compact() {
	s.t.Helper()
	for more := true; more; {
		var err error
		if more, err = s.Compact(s.next); err != nil {
			s.t.Fatal(err)
		}
		s.check(s.Store)
	}
}

// next is the next revision.
func (s *stick) next() uint64 {
	s.last = max(s.last, s.Reserved()) + 1
	return s.last
}

// try commits a change, if need be after space was made for it.
func (s *stick) try(change func(revision uint64) token.Change) (token.Change, error) {
	s.t.Helper()
	c := change(s.next())
	err := s.Commit([]token.Change{c})
	if token.ReasonOf(err) == token.Full {
		s.compact()
		c = change(s.next())
		err = s.Commit([]token.Change{c})
	}
	return c, err
}

// content is all records with their data; the model that stores are compared with.
type content map[string]token.Record

func newContent() content { return content{} }

func read(t *testing.T, s *token.Store) content {
	t.Helper()
	c, err := readAll(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func readAll(s *token.Store) (content, error) {
	c := content{}
	for r := range s.Records() {
		data, err := s.Data(r.Key)
		if err != nil {
			return c, err
		}
		r.Data = data
		c[r.Key] = r
	}
	return c, nil
}

func (c content) apply(changes []token.Change) content {
	next := maps.Clone(c)
	for _, change := range changes {
		if change.Delete {
			delete(next, change.Record.Key)
		} else {
			next[change.Record.Key] = change.Record
		}
	}
	return next
}

func (c content) equal(other content) bool {
	return maps.EqualFunc(c, other, func(a, b token.Record) bool {
		return a.Key == b.Key && a.Address == b.Address && bytes.Equal(a.Meta, b.Meta) && bytes.Equal(a.Data, b.Data) &&
			a.Revision == b.Revision && a.DataRevision == b.DataRevision
	})
}

func (c content) String() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&b, "%s@%d(%d) ", key, c[key].Revision, len(c[key].Data))
	}
	return b.String()
}

func (s *stick) expect(want content) {
	s.t.Helper()
	if got := read(s.t, s.Store); !got.equal(want) {
		s.t.Fatalf("the store holds %v, expected %v", got, want)
	}
}

// put is a change with data that depends on the key and the revision.
func put(key string, revision uint64, size int) token.Change {
	data := bytes.Repeat(fmt.Appendf(nil, "%s@%d ", key, revision), size/4+1)[:size]
	return token.Change{Record: token.Record{
		Key: key, Address: "secrets/" + key, Meta: fmt.Appendf(nil, `{"metadata":{"name":%q}}`, key),
		Data: data, Revision: revision, DataRevision: revision,
	}}
}

func del(key string, revision uint64) token.Change {
	return token.Change{Record: token.Record{Key: key, Revision: revision}, Delete: true}
}

func eachProfile(t *testing.T, test func(t *testing.T, p faulttoken.Profile)) {
	for _, p := range faulttoken.Profiles {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		s := provision(t, p)
		want := newContent()
		for _, changes := range [][]token.Change{
			{put("ns/a", 1, 10)},
			{put("ns/b", 2, 600), put("ns/c", 3, 0)},
			{put("ns/a", 4, 700)},
			{put("ns/long", 10, 9000), put("ns/d", 11, 5)},
			{del("ns/b", 12)},
			{put("ns/long", 13, 5000), del("ns/a", 14), put("ns/b", 15, 1)},
			{put("ns/e", 16, 1), put("ns/e", 17, 2), del("ns/d", 18)},
			{del("ns/e", 19), del("ns/never", 20)},
		} {
			s.commit(changes...)
			want = want.apply(changes)
			s.expect(want)
			s.reopen()
			s.expect(want)
			s.collect()
			s.expect(want)
			s.reopen()
			s.expect(want)
			if last := changes[len(changes)-1].Record.Revision; s.Head() != last || !s.Contains(last) {
				t.Fatalf("head %d, expected %d", s.Head(), last)
			}
		}
	})
}
