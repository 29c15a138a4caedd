// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"os"
	"path/filepath"

	"pgregory.net/rapid"

	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/pkg/token/wal"
	"j5t.io/hsm/test/framework/faultfs"
	"j5t.io/hsm/test/framework/faulttoken"
)

// world is a token and the hosts that it is used on, one after the other.
type world struct {
	t       *rapid.T
	token   *faulttoken.Token
	profile token.Profile
	hosts   []*host
	at      *host
	disk    *machine
	store   *token.Store
	id      string

	want content
	// unknown is the commit whose outcome nobody knows yet, and then what comes of it.
	unknown uint64
	then    content

	clock uint64
}

// host is an agent with its state directory.
type host struct {
	dir   string // Empty: no log is kept.
	last  uint64 // The highest revision given, as the running process knows it.
	given uint64 // The highest one that anybody was told.
}

func newWorld(t *rapid.T, p faulttoken.Profile) *world {
	w := &world{t: t, token: faulttoken.New(p), want: newContent(), clock: 1_790_000_000_000 << 20}
	if rapid.Bool().Draw(t, "small") {
		w.profile = token.Profile{Name: "small", Objects: 24, Reserve: 9, SegmentBytes: 900, RecordBytes: 5000}
	}
	for range 2 {
		dir, err := os.MkdirTemp("", "model")
		w.must(err)
		w.hosts = append(w.hosts, &host{dir: dir})
	}
	w.hosts = append(w.hosts, &host{})
	w.at = w.hosts[0]
	w.open(token.Options{Provision: true})
	w.id = w.store.ID()
	return w
}

func (w *world) must(err error) {
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) end() {
	for _, h := range w.hosts {
		if h.dir != "" {
			_ = os.RemoveAll(h.dir)
		}
	}
}

// open is a process that starts: it knows nothing but what it reads.
func (w *world) open(o token.Options) {
	w.token.CutAt(0, false)
	w.token.Insert()
	session, err := w.token.Open()
	w.must(err)
	w.disk = &machine{FS: faultfs.New(0, faultfs.Before), token: w.token, whole: true}
	o.Profile = w.profile
	if w.at.dir != "" {
		o.Log = wal.New(w.disk, filepath.Join(w.at.dir, "shadow"))
	}
	w.store, err = token.Open(session, o)
	w.must(err)
	w.at.last = w.store.Reserved()
}

// reopen starts a process, and finds out what became of the last commit.
func (w *world) reopen() {
	w.open(token.Options{StoreID: w.id})
	if w.unknown > 0 && w.store.Contains(w.unknown) {
		w.want = w.then
		w.seen(w.unknown)
	}
	w.unknown = 0
	w.compare()
}

func (w *world) compare() {
	w.must(w.store.CheckInvariants())
	got, err := readAll(w.store)
	if err != nil || !got.equal(w.want) {
		w.t.Fatalf("the store holds %v (%v), expected %v", got, err, w.want)
	}
}

// settle makes sure that the token holds all, by itself.
func (w *world) settle() {
	w.kill(w.t)
	logged := w.at
	w.at = &host{}
	w.reopen()
	w.at = logged
}

// next gives a revision, as an agent does. None is given twice where a log is kept.
func (w *world) next() uint64 {
	h := w.at
	h.last = max(h.last+1, w.clock)
	if h.dir != "" && h.last <= h.given {
		w.t.Fatalf("revision %d was given again, after %d", h.last, h.given)
	}
	return h.last
}

// seen notes a revision that somebody has been told.
func (w *world) seen(revision uint64) { w.at.given = max(w.at.given, revision) }

// commit makes a commit, and takes note of what came of it.
func (w *world) commit(changes []token.Change) error {
	for i := range changes {
		r := &changes[i].Record
		r.Revision = w.next()
		if !changes[i].Delete {
			r.DataRevision = r.Revision
		}
	}
	id := changes[len(changes)-1].Record.Revision
	head := w.store.Head()
	if id <= head {
		w.t.Fatalf("revision %d is not above the store's %d", id, head)
	}
	err := w.store.Commit(changes)
	switch {
	case err == nil:
		w.want = w.want.apply(changes)
		w.seen(id)
	case w.disk.Stopped(): // Nobody hears of it.
		w.unknown, w.then = id, w.want.apply(changes)
	case token.ReasonOf(err) == token.OutcomeUnknown:
		w.unknown, w.then = id, w.want.apply(changes)
		w.seen(id)
	case token.ReasonOf(err) != token.Full:
		w.seen(id)
	}
	return err
}

// ordinary is a commit without a fault: the token may be full, and nothing else.
func (w *world) ordinary(changes ...token.Change) {
	if err := w.commit(changes); err != nil && token.ReasonOf(err) != token.Full {
		w.t.Fatal(err)
	}
}
