// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/token"
)

// commitTask changes one record if it is at the expected revision.
type commitTask struct {
	in  *agentv1.CommitRequest
	out *agentv1.CommitResponse
}

// commit makes as many of the waiting changes as can share one commit.
func (w *worker) commit(waiting []*request) error {
	b := &batch{claimed: map[string]bool{}}
	segment := w.connection.store.Usage().Profile.SegmentBytes
	for _, r := range waiting {
		task, ok := r.task.(*commitTask)
		if !ok || !b.fits(task.in, segment) || !b.claim(w.claimKeys(task.in)) || !w.queue.begin(r) {
			continue
		}
		made, err := w.prepare(task)
		switch {
		case ifLost(err) != nil: // Nothing was written yet.
			w.repeat(err, append(b.requests(), r)...)
			return ifLost(err)
		case err != nil:
			r.done <- requestError(err)
		case made == nil:
			r.done <- nil
		default:
			b.add(made, r, task.in)
		}
	}
	return w.write(b)
}

// claimKeys gives the key and the addresses that a request is about. A key and
// an address are told apart by their first byte.
func (w *worker) claimKeys(in *agentv1.CommitRequest) []string {
	claims := []string{"k" + in.GetKey()}
	x, _ := w.versions.Current()
	if before := x.Get(in.GetKey()); before != nil && before.Address != "" {
		claims = append(claims, "a"+before.Address)
	}
	if address := in.GetPut().GetAddress(); address != "" {
		claims = append(claims, "a"+address)
	}
	return claims
}

// prepare decides what a request comes to: an error, a response at once (nil),
// or a change for the token. The response is in task.out.
func (w *worker) prepare(task *commitTask) (*change, error) {
	in := task.in
	x, revision := w.versions.Current()
	before := x.Get(in.GetKey())
	var at uint64
	if before != nil {
		at = before.Revision
	}
	if at != in.GetExpectedRevision() {
		task.out = &agentv1.CommitResponse{Revision: revision}
		return nil, nil
	}
	put := in.GetPut()
	if before == nil && (put == nil || put.GetSameData()) {
		return nil, invalidError("record %q does not exist: only a put with data can create it", in.GetKey())
	}
	switch {
	case in.GetDelete() != nil:
		return w.sealPrevious(&change{Event: mvcc.Event{Before: before}})
	case in.GetSetStatus() != nil:
		return nil, w.setStatus(task, before, in.GetSetStatus().GetStatus())
	}
	if put.GetSameData() && put.GetAddress() == before.Address && bytes.Equal(put.GetMeta(), before.Meta) {
		return nil, w.setStatus(task, before, put.GetStatus())
	}
	if owner := x.AtAddress(put.GetAddress()); owner != nil && owner.Key != in.GetKey() {
		return nil, addressInUseError(put.GetAddress())
	}
	after := &mvcc.Record{Key: in.GetKey(), Address: put.GetAddress(), Meta: put.GetMeta(), Status: put.GetStatus()}
	made := &change{Event: mvcc.Event{Before: before, After: after}, data: put.GetData()}
	if put.GetSameData() {
		after.DataRevision = before.DataRevision
	}
	return w.sealPrevious(made)
}

// setStatus changes what only the agent's memory holds: the token is not asked.
func (w *worker) setStatus(task *commitTask, before *mvcc.Record, status []byte) error {
	after := before
	if !bytes.Equal(status, before.Status) {
		revision, err := w.revisions.reserve(w.connection.store)
		if err != nil {
			return err
		}
		changed := *before
		changed.Status, changed.Revision = status, revision
		after = &changed
		w.versions.Append([]mvcc.Event{{Revision: after.Revision, Before: before, After: after}}, nil)
	}
	task.out = committed(after.Revision, after.DataRevision)
	return nil
}

// sealPrevious completes a change by the data that it overwrites, sealed, so that
// the history can tell it. It is read from the token unless the history has it.
func (w *worker) sealPrevious(made *change) (*change, error) {
	if made.Before == nil {
		return made, nil
	}
	v := made.Before.Version()
	same := made.After != nil && made.After.DataRevision == v.DataRevision
	sealed, kept := w.versions.SealedData(v)
	if kept && !same {
		made.sealed = sealed
		return made, nil
	}
	data, err := w.data(v)
	if err != nil {
		return nil, err
	}
	if same {
		made.data = data
	}
	made.sealed = w.versions.Seal(v, data)
	return made, nil
}

// write makes the changes of a batch durable, then visible. Its error means that
// the session is lost.
func (w *worker) write(b *batch) error {
	if len(b.changes) == 0 {
		return nil
	}
	changes := make([]token.Change, len(b.changes))
	for i, made := range b.changes {
		made.assignRevision(w.revisions.next())
		changes[i] = made.forToken()
	}
	store := w.connection.store
	err := w.watchdog.guard("committing", func() error { return store.Commit(changes) })
	if err == nil {
		w.state.setStore(store)
		w.publish(b)
		return nil
	}
	switch meaningOf(err).written {
	case writtenUnknown:
		b.unknown = err
		w.pending = b
		return lostError{err}
	case writtenNotMade:
		w.repeat(err, b.requests()...)
		return lostError{err}
	}
	if len(b.changes) > 1 {
		return w.writeEach(b)
	}
	if token.ReasonOf(err) == token.Full && !b.madeSpace {
		b.madeSpace = true
		again, lost := w.makeSpace()
		if lost != nil {
			w.repeat(lost, b.requests()...)
			return lost
		}
		if again {
			return w.write(b)
		}
	}
	b.reply(requestError(err))
	return nil
}

// writeEach makes the changes of a batch that was refused as a whole one by one:
// what fits by itself is still made.
func (w *worker) writeEach(b *batch) error {
	for i, made := range b.changes {
		if err := w.write(&batch{changes: []*change{made}}); err != nil {
			w.repeat(err, (&batch{changes: b.changes[i+1:]}).requests()...)
			return err
		}
	}
	return nil
}

// publish makes the changes of a batch visible and ends their requests.
func (w *worker) publish(b *batch) {
	events := make([]mvcc.Event, len(b.changes))
	sealed := map[mvcc.Version]mvcc.Sealed{}
	for i, made := range b.changes {
		events[i] = made.Event
		if made.Before != nil {
			sealed[made.Before.Version()] = made.sealed
		}
		if made.After != nil {
			v := made.After.Version()
			if _, same := sealed[v]; !same {
				sealed[v] = w.versions.Seal(v, made.data)
			}
		}
	}
	w.versions.Append(events, sealed)
	for _, made := range b.changes {
		var dataRevision uint64
		if made.After != nil {
			dataRevision = made.After.DataRevision
		}
		made.request.task.(*commitTask).out = committed(made.Revision, dataRevision)
	}
	b.reply(nil)
}

func committed(revision, dataRevision uint64) *agentv1.CommitResponse {
	return &agentv1.CommitResponse{Committed: true, Revision: revision, DataRevision: dataRevision}
}
