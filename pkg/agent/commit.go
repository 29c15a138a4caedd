// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"time"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/token"
)

// maxBatch bounds the changes of one commit. Most of the time its bytes do: a
// batch takes one segment, so that its records do not hold each other's room.
const maxBatch = 128

// commitTask changes one record if it is at the expected revision.
type commitTask struct {
	in  *agentv1.CommitRequest
	out *agentv1.CommitResponse
}

// change is what a commitTask comes to: a change that the token has to make.
type change struct {
	mvcc.Event
	request *request
	data    []byte      // Of After.
	sealed  mvcc.Sealed // Data of Before.
}

// batch is the changes of one commit. No two of them touch the same key or
// address, so each can be judged by the index as it was before all of them.
type batch struct {
	changes  []*change
	touched  map[string]bool
	bytes    int
	packed   bool // Room was made for it.
	answered bool
	unknown  error     // Why the outcome is not known.
	since    time.Time // When it became unknown.
}

// commit makes as many of the waiting changes as can share one commit.
func (w *worker) commit(c *connection, waiting []*request) error {
	b := &batch{touched: map[string]bool{}}
	segment := c.store.Usage().Profile.SegmentBytes
	for _, r := range waiting {
		task, ok := r.task.(*commitTask)
		if !ok || !b.room(task.in, segment) || !b.touch(w.touches(task.in)) || !w.queue.begin(r) {
			continue
		}
		made, err := w.prepare(c, task)
		switch {
		case err != nil:
			r.done <- requestError(err)
			if lost := ifLost(err); lost != nil {
				b.answer(requestError(err)) // Nothing was written yet.
				return lost
			}
		case made == nil:
			r.done <- nil
		default:
			made.request = r
			b.changes = append(b.changes, made)
			b.bytes += commitSize(task.in)
		}
	}
	return w.write(c, b)
}

// room tells whether a change may join the batch. A batch of one is never too large.
func (b *batch) room(in *agentv1.CommitRequest, segment int) bool {
	return len(b.changes) == 0 || len(b.changes) < maxBatch && b.bytes+commitSize(in) <= segment
}

func commitSize(in *agentv1.CommitRequest) int {
	put := in.GetPut()
	return len(in.GetKey()) + len(put.GetAddress()) + len(put.GetMeta()) + len(put.GetData())
}

// touches gives the key and the addresses that a request is about. A key and
// an address are told apart by their first byte.
func (w *worker) touches(in *agentv1.CommitRequest) []string {
	touched := []string{"k" + in.GetKey()}
	x, _ := w.versions.Current()
	if before := x.Get(in.GetKey()); before != nil && before.Address != "" {
		touched = append(touched, "a"+before.Address)
	}
	if address := in.GetPut().GetAddress(); address != "" {
		touched = append(touched, "a"+address)
	}
	return touched
}

// touch is false if one of the names was touched before.
func (b *batch) touch(names []string) bool {
	for _, name := range names {
		if b.touched[name] {
			return false
		}
	}
	for _, name := range names {
		b.touched[name] = true
	}
	return true
}

// prepare decides what a request comes to: an error, an answer at once (nil),
// or a change for the token. The answer is in task.out.
func (w *worker) prepare(c *connection, task *commitTask) (*change, error) {
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
		return w.overwrite(c, &change{Event: mvcc.Event{Before: before}})
	case in.GetSetStatus() != nil:
		return nil, w.setStatus(c, task, before, in.GetSetStatus().GetStatus())
	}
	if put.GetSameData() && put.GetAddress() == before.Address && bytes.Equal(put.GetMeta(), before.Meta) {
		return nil, w.setStatus(c, task, before, put.GetStatus())
	}
	if owner := x.AtAddress(put.GetAddress()); owner != nil && owner.Key != in.GetKey() {
		return nil, addressInUseError(put.GetAddress())
	}
	after := &mvcc.Record{Key: in.GetKey(), Address: put.GetAddress(), Meta: put.GetMeta(), Status: put.GetStatus()}
	made := &change{Event: mvcc.Event{Before: before, After: after}, data: put.GetData()}
	if put.GetSameData() {
		after.DataRevision = before.DataRevision
	}
	return w.overwrite(c, made)
}

// setStatus changes what only the agent's memory holds: the token is not asked.
func (w *worker) setStatus(c *connection, task *commitTask, before *mvcc.Record, status []byte) error {
	after := before
	if !bytes.Equal(status, before.Status) {
		revision, err := w.reservedRevision(c.store)
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

// overwrite completes a change by the data that it overwrites, sealed, so that
// the history can tell it. It is read from the token unless it is there already.
func (w *worker) overwrite(c *connection, made *change) (*change, error) {
	if made.Before == nil {
		return made, nil
	}
	v := made.Before.Version()
	same := made.After != nil && made.After.DataRevision == v.DataRevision
	sealed, held := w.versions.SealedData(v)
	if held && !same {
		made.sealed = sealed
		return made, nil
	}
	data, err := w.data(c, v)
	if err != nil {
		return nil, err
	}
	if same {
		made.data = data
	}
	made.sealed = w.versions.Seal(v, data)
	return made, nil
}

// write makes the changes of a batch durable, then visible.
func (w *worker) write(c *connection, b *batch) error {
	if len(b.changes) == 0 {
		return nil
	}
	records := make([]token.Change, len(b.changes))
	for i, made := range b.changes {
		records[i] = w.number(made)
	}
	err := w.watchdog.guard("committing", func() error { return c.store.Commit(records) })
	switch {
	case err == nil:
		w.measured(c.store.Usage())
		w.publish(b)
		return nil
	case token.ReasonOf(err) == token.OutcomeUnknown:
		b.unknown, b.since = err, time.Now()
		w.pending = b
		return err
	case !isRefusal(err): // Nothing was changed, but the store has to be opened again.
		b.answer(conditionOf(err).err())
		return lostError{err}
	case len(b.changes) == 1:
		if token.ReasonOf(err) == token.Full && !b.packed {
			b.packed = true
			packed, lost := w.makeRoom(c)
			if lost != nil {
				b.answer(conditionOf(lost).err())
				return lost
			}
			if packed {
				return w.write(c, b)
			}
		}
		b.answer(requestError(err))
		return nil
	}
	// Refused as a whole: what fits by itself is still made.
	for i, made := range b.changes {
		if err := w.write(c, &batch{changes: []*change{made}}); err != nil {
			(&batch{changes: b.changes[i+1:]}).answer(conditionOf(err).err())
			return err
		}
	}
	return nil
}

// makeRoom does all of the housekeeping that makes room for a change which was
// refused, and tells whether there was any.
func (w *worker) makeRoom(c *connection) (packed bool, lost error) {
	for {
		more, err := w.tidy(c)
		if err != nil || !more {
			return packed, err
		}
		packed = true
	}
}

// number gives a change its revision and puts it into the form of the token.
func (w *worker) number(made *change) token.Change {
	made.Revision = w.nextRevision()
	before, after := made.Before, made.After
	if after == nil {
		return token.Change{Record: token.Record{Key: before.Key, Revision: made.Revision}, Delete: true}
	}
	after.Revision, after.StoredRevision = made.Revision, made.Revision
	if before == nil || after.DataRevision != before.DataRevision {
		after.DataRevision = made.Revision
	}
	return token.Change{Record: token.Record{
		Key: after.Key, Address: after.Address, Meta: after.Meta, Data: made.data,
		Revision: after.Revision, DataRevision: after.DataRevision,
	}}
}

// publish makes the changes of a batch visible and answers their requests.
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
	b.answer(nil)
}

// answer ends the requests of a batch, once.
func (b *batch) answer(err error) {
	if b.answered {
		return
	}
	b.answered = true
	for _, made := range b.changes {
		made.request.done <- err
	}
}

func committed(revision, dataRevision uint64) *agentv1.CommitResponse {
	return &agentv1.CommitResponse{Committed: true, Revision: revision, DataRevision: dataRevision}
}
