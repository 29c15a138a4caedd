// SPDX-License-Identifier: Apache-2.0

package agent

import (
	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/token"
)

// maxBatch bounds the changes of one commit. Most of the time its bytes do: a
// batch takes one segment, so that its records do not hold each other's space.
const maxBatch = 128

// change is what a commitTask comes to: a change that the token has to make.
type change struct {
	mvcc.Event
	request *request
	data    []byte      // Of After.
	sealed  mvcc.Sealed // Data of Before.
}

// batch is the changes of one commit. No two of them are about the same key or
// address, so each can be judged by the index as it was before all of them.
type batch struct {
	changes   []*change
	claimed   map[string]bool // Keys and addresses.
	bytes     int
	madeSpace bool // Housekeeping has done what it could for it.
	replied   bool
	unknown   error // Why the outcome is not known.
}

// fits reports whether a change may join the batch. A batch of one is never too large.
func (b *batch) fits(in *agentv1.CommitRequest, segment int) bool {
	return len(b.changes) == 0 || len(b.changes) < maxBatch && b.bytes+commitSize(in) <= segment
}

func commitSize(in *agentv1.CommitRequest) int {
	put := in.GetPut()
	return len(in.GetKey()) + len(put.GetAddress()) + len(put.GetMeta()) + len(put.GetData())
}

// claim is false if one of the keys and addresses was claimed before.
func (b *batch) claim(names []string) bool {
	for _, name := range names {
		if b.claimed[name] {
			return false
		}
	}
	for _, name := range names {
		b.claimed[name] = true
	}
	return true
}

func (b *batch) add(made *change, r *request, in *agentv1.CommitRequest) {
	made.request = r
	b.changes = append(b.changes, made)
	b.bytes += commitSize(in)
}

func (b *batch) requests() []*request {
	requests := make([]*request, len(b.changes))
	for i, made := range b.changes {
		requests[i] = made.request
	}
	return requests
}

// reply ends the requests of a batch, once.
func (b *batch) reply(err error) {
	if b.replied {
		return
	}
	b.replied = true
	for _, made := range b.changes {
		made.request.done <- err
	}
}

// assignRevision gives a change its revision.
func (made *change) assignRevision(revision uint64) {
	made.Revision = revision
	if after := made.After; after != nil {
		after.Revision, after.StoredRevision = revision, revision
		if made.Before == nil || after.DataRevision != made.Before.DataRevision {
			after.DataRevision = revision
		}
	}
}

// forToken is a change that has its revision in the form of the token.
func (made *change) forToken() token.Change {
	after := made.After
	if after == nil {
		return token.Change{Record: token.Record{Key: made.Before.Key, Revision: made.Revision}, Delete: true}
	}
	return token.Change{Record: token.Record{
		Key: after.Key, Address: after.Address, Meta: after.Meta, Data: made.data,
		Revision: after.Revision, DataRevision: after.DataRevision,
	}}
}
