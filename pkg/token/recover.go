// SPDX-License-Identifier: Apache-2.0

package token

import (
	"maps"
	"slices"

	"j5t.io/hsm/pkg/token/format"
	"j5t.io/hsm/pkg/token/wal"
)

// recovery reads a store from the token, and from the log what the token
// lacks. It changes nothing: what is to be done then is in damage.
type recovery struct {
	*opener
	sealer  *format.Sealer
	commits []*commit // that count
	records map[*commit][]format.LocatedRecord
	damage  *damage
	// doubtful is what could not be read, and may not be of the store.
	doubtful []doubt
}

type doubt struct {
	objects []segmentObject
	err     error
}

// recover finds the whole store, on the token and in the log together, and what is
// to be repaired before it is used.
func (p *opener) recover(id *identity) (*Store, *damage, error) {
	r := &recovery{
		opener: p, sealer: id.sealer, records: map[*commit][]format.LocatedRecord{},
		damage: &damage{lostKeyring: id.lost, sealed: map[*commit][][]byte{}, lost: map[*commit][]int{}},
	}
	if err := r.judgeLog(); err != nil {
		return nil, nil, err
	}
	if err := r.readCommits(); err != nil {
		return nil, nil, err
	}
	r.damage.replay = r.replay
	r.report.Superseded = r.garbage.space().objects
	return r.store(id, newIndex(r.commits, r.records)), r.damage, nil
}

// judgeLog drops a log that is of another store, or that the token has moved past.
func (r *recovery) judgeLog() error {
	if r.report.Log != LogCurrent {
		return nil
	}
	current, err := r.logIsCurrent()
	switch {
	case err != nil:
		return err
	case r.replay.Store != r.sealer.Store():
		r.report.Log = LogForeign
	case !current:
		r.report.Log = LogStale
	default:
		return nil
	}
	r.replay = r.replay.Forget()
	return nil
}

// logIsCurrent reports whether the log knows of the last commit on the token. If not,
// the token has lived elsewhere since. Of a commit segment that is damaged, the id
// decides.
func (r *recovery) logIsCurrent() (bool, error) {
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(r.listing.commits))) {
		objects := r.listing.commits[id]
		if !hasCommitSegment(objects) {
			continue
		}
		known := r.replay.Names(id)
		for _, o := range objects {
			name, authentic, err := r.nameOf(id, o)
			if err != nil {
				return false, err
			}
			if o.part == 0 && authentic {
				if known = r.replay.Outcomes[name] != 0; known {
					break
				}
			}
		}
		return known || r.logSupersedes(id), nil
	}
	return true, nil
}

// logSupersedes reports whether a commit in the log names another as one that it has
// superseded: a log that was begun later does not hold that one itself.
func (r *recovery) logSupersedes(id uint64) bool {
	for later := range r.replay.Commits {
		if later > id && slices.Contains(r.supersededBy(later), id) {
			return true
		}
	}
	return false
}

// nameOf is the commit that an object is of, unless it is damaged.
func (r *recovery) nameOf(id uint64, o segmentObject) (name wal.CommitName, authentic bool, err error) {
	value, err := r.values.of(o.Object)
	if ReasonOf(err) == Corrupt {
		return name, false, nil
	}
	if err != nil {
		return name, false, err
	}
	h, piece, err := r.sealer.Open(value)
	clear(piece)
	return wal.CommitName{ID: id, Nonce: h.Nonce}, err == nil && h.Commit == id, nil
}

// readCommits reads the commits from the newest to the oldest. The newest one says
// which of the others have been superseded, and of which the store is made up; any
// difference to what was found is an error.
func (r *recovery) readCommits() error {
	var head *format.Payload
	superseded, gone := map[uint64]bool{}, map[uint64]int{}
	for _, id := range r.ids() {
		objects := r.listing.commits[id]
		if superseded[id] {
			if len(objects) > 0 {
				r.discard(id, true, objects...)
				delete(gone, id)
			}
			for _, id := range r.supersededBy(id) {
				superseded[id] = true
			}
			continue
		}
		logged, failed, err := r.logged(id, objects)
		switch {
		case err != nil:
			return err
		case failed:
			continue
		case logged == nil && !hasCommitSegment(objects):
			if err := r.orphans(id, objects, head != nil); err != nil {
				return err
			}
			continue
		}
		c, p, err := r.readCommit(id, objects, logged)
		if err != nil {
			if head == nil || ReasonOf(err) != Corrupt {
				return err
			}
			r.doubtful = append(r.doubtful, doubt{objects, err})
			continue
		}
		if head == nil {
			head = p
			for _, id := range p.Superseded {
				gone[id]++
			}
		}
		for _, id := range p.Superseded {
			superseded[id] = true
		}
		r.commits = append(r.commits, c)
		r.records[c] = p.Records
	}
	slices.Reverse(r.commits)
	slices.Reverse(r.garbage.obsolete)
	r.garbage.recentlyDeleted = inheritDeletions(gone)
	if head == nil {
		return nil
	}
	return r.checkWhole(head)
}

// ids are all commit ids on the token and in the log, the newest first.
func (r *recovery) ids() []uint64 {
	ids := slices.AppendSeq(slices.Collect(maps.Keys(r.listing.commits)), maps.Keys(r.replay.Commits))
	slices.Sort(ids)
	slices.Reverse(ids)
	return slices.Compact(ids)
}

// supersededBy is the list of a commit in the log, which keeps commits for longer
// than later lists name them.
func (r *recovery) supersededBy(id uint64) []uint64 {
	logged := r.replay.Commits[id]
	if logged == nil {
		return nil
	}
	var content []byte
	for _, value := range logged.Segments {
		if _, piece, err := r.sealer.Open(value); err == nil {
			content = append(content, piece...)
			clear(piece)
		}
	}
	p, err := format.DecodePayload(id, content)
	clear(content)
	if err != nil {
		return nil // Then the head's digest shows whether anything is wrong.
	}
	return p.Superseded
}

// logged is the log's copy of a commit, nil if there is none that counts. failed
// reports whether the commit was reported as not made.
func (r *recovery) logged(id uint64, objects []segmentObject) (logged *wal.Commit, failed bool, err error) {
	logged = r.replay.Commits[id]
	if logged != nil && r.replay.Outcomes[logged.Name] == wal.KindUnresolved {
		outcome := wal.Made(logged.Name)
		if !hasCommitSegment(objects) {
			outcome, logged = wal.Failed(logged.Name), nil
		}
		r.damage.resolved = append(r.damage.resolved, outcome)
	}
	if logged != nil || len(objects) == 0 {
		return logged, logged == nil, nil
	}
	name, authentic, err := r.nameOf(id, objects[0])
	if err == nil && (authentic && r.replay.Outcomes[name] == wal.KindFailed || !authentic && r.replay.Failed(id)) {
		refused := newObsolete(id, true, objects, r.profile)
		r.space.bytes += refused.bytes()
		r.damage.refused = append(r.damage.refused, refused)
		return nil, true, nil
	}
	return nil, false, err
}

// checkWhole compares what was read with what the head says there has to be.
// Then all else that is older than the head is not of the store.
func (r *recovery) checkWhole(head *format.Payload) error {
	last := len(r.commits) - 1
	earlier := r.commits[:last]
	if head.Live != uint64(len(earlier)) || head.Digest != format.DigestOf(idsOf(earlier)) {
		if len(r.doubtful) > 0 {
			return r.doubtful[0].err
		}
		return errorf(Corrupt, "the token holds %d earlier commits, and commit %016x was made with %d: some were lost, or came back. Nothing was changed; restore them from the write-ahead log or a mirror",
			len(earlier), r.commits[last].id, head.Live)
	}
	for _, d := range r.doubtful {
		for _, o := range d.objects {
			r.quarantine(o.Object)
		}
	}
	return nil
}

// orphans are segments without a commit segment, which were never acknowledged:
// they are left to the collector, whole or not. Those of another store are not.
func (r *recovery) orphans(id uint64, objects []segmentObject, older bool) error {
	var ours []segmentObject
	for _, o := range objects {
		value, err := r.values.of(o.Object)
		if err != nil && ReasonOf(err) != Corrupt {
			return err
		}
		if h, invalid := format.DecodeHeader(value); err == nil && invalid == nil && h.Store != r.sealer.Store() {
			if _, _, err := r.sealer.Open(value); err != nil {
				if !older {
					return corruptObject(o.Label, err)
				}
				r.quarantine(o.Object)
				continue
			}
		}
		ours = append(ours, o)
	}
	if len(ours) > 0 {
		r.discard(id, false, ours...)
	}
	return nil
}
