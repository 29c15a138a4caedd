// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/token"
)

// load takes over a store that was just opened or scrubbed. If it holds what
// the index says, revisions and watches go on as if nothing had happened;
// else somebody else has changed it, and the history begins anew.
func (w *worker) load() error {
	store := w.connection.store
	w.noteRecovery(store)
	w.resolve(store)
	x, revision := w.versions.Current()
	first := revision == 0
	loaded := mvcc.NewIndex(func(yield func(*mvcc.Record) bool) {
		for r := range store.Records() {
			known := x.Get(r.Key)
			if known == nil || known.StoredRevision != r.Revision {
				known = &mvcc.Record{
					Key: r.Key, Address: r.Address, Meta: r.Meta,
					Revision: r.Revision, DataRevision: r.DataRevision, StoredRevision: r.Revision,
				}
			}
			if !yield(known) {
				return
			}
		}
	})
	w.revisions.raise(store.Reserved())
	switch {
	case first:
		// Also an empty store has a revision: 0 means "now" everywhere.
		w.revisions.raise(1)
		w.versions.Reset(loaded, w.revisions.last)
	case !x.Equal(loaded):
		revision, err := w.revisions.reserve(store)
		if err != nil {
			return err
		}
		w.versions.Reset(loaded, revision)
	}
	return nil
}

// resolve finds out whether the commit of unknown outcome was made. If it was not, and
// the store has written down that it never will be, its changes are made again, with
// revisions of their own.
func (w *worker) resolve(store *token.Store) {
	b := w.pending
	if b == nil {
		return
	}
	w.pending = nil
	if store.Contains(b.changes[len(b.changes)-1].Revision) {
		w.publish(b)
		return
	}
	if !b.replied {
		w.repeat(b.unknown, b.requests()...)
	}
}

// abandonPending tells the callers of a commit of unknown outcome that it stays unknown.
func (w *worker) abandonPending() {
	if b := w.pending; b != nil {
		b.reply(outcomeUnknownError(b.unknown))
	}
}
