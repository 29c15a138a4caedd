// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"k8s.io/utils/clock"

	"j5t.io/hsm/pkg/token"
)

// reserveAhead is how many revisions are reserved at a time, so that most of
// them cost no write of the log: those of ten seconds.
const reserveAhead = 10_000 << 20

// revisions gives out revisions. They grow over restarts, failover and tokens
// without a counter on the token. None is given twice.
type revisions struct {
	clock clock.PassiveClock
	// last is the last one that was given to a change, made or not.
	last uint64
}

// next is for a change that the token gets. One that it does not get has to be
// reserved.
func (r *revisions) next() uint64 {
	r.last = max(r.last+1, uint64(r.clock.Now().UnixMilli())<<20)
	return r.last
}

// nextAbove is next for a store whose revisions are not known yet.
func (r *revisions) nextAbove(revision uint64) uint64 {
	r.raise(revision)
	return r.next()
}

// raise makes sure that the next one is above a revision.
func (r *revisions) raise(revision uint64) { r.last = max(r.last, revision) }

// reserve is next for a change that the token does not get. It
// is not given again, nor a lower one, when the agent is started anew, whatever
// its clock says then.
func (r *revisions) reserve(store *token.Store) (uint64, error) {
	revision := r.next()
	return revision, store.Reserve(revision, reserveAhead)
}
