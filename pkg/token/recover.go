// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"
	"maps"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/wal"
)

// recovery reads a store from the token, and from the shadow what the token
// lacks. Nothing is changed before all of the store is known.
type recovery struct {
	*Store
	inv *inventory
	mem *memory // nothing, if there is no shadow or the token has moved past it
	// sealed is the values of the parts of units.
	sealed map[*unit][][]byte
	// lost is the parts that the token does not hold, or not whole.
	lost map[*unit][]int
	// replaced is the objects whose parts are lost.
	replaced []numberedObject
	// refused is what the token holds of commits that were reported as not made.
	refused []waste
	// settled is what turns out to have come of commits of unknown outcome.
	settled []wal.Entry
	// doubtful is what could not be read, and may not be of the store.
	doubtful []doubt
}

type doubt struct {
	objects []numberedObject
	err     error
}

// current tells whether the shadow knows of the last commit on the token. If not,
// the token has lived elsewhere since. Of a commit segment that is damaged, the id
// decides.
func (r *recovery) current() (bool, error) {
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(r.inv.units))) {
		if !committed(r.inv.units[id]) {
			continue
		}
		known := r.mem.ids[id]
		for _, o := range r.inv.units[id] {
			name, authentic, err := r.nameOf(id, o)
			if err != nil {
				return false, err
			}
			if o.part == 0 && authentic {
				if known = r.mem.fates[name] != 0; known {
					break
				}
			}
		}
		return known || r.supersedes(id), nil
	}
	return true, nil
}

// supersedes tells whether a unit in the shadow names a commit as one that it has
// superseded: a shadow that was begun later does not hold that one itself.
func (r *recovery) supersedes(id uint64) bool {
	for later := range r.mem.units {
		if later > id && slices.Contains(r.supersededBy(later), id) {
			return true
		}
	}
	return false
}

// nameOf is the unit that an object is of, unless it is damaged.
func (r *recovery) nameOf(id uint64, o numberedObject) (name unitName, authentic bool, err error) {
	value, err := r.values.of(o.Object)
	if ReasonOf(err) == Corrupt {
		return name, false, nil
	}
	if err != nil {
		return name, false, err
	}
	h, piece, err := r.keys.open(value)
	clear(piece)
	return unitName{id, h.unit}, err == nil && h.commit == id, nil
}

// run reads the units from the newest to the oldest. The newest one says which of
// the others have been superseded, and of which the store is made up; any
// difference to what was found is an error.
func (r *recovery) run() error {
	var head *payload
	superseded, gone := map[uint64]bool{}, map[uint64]bool{}
	records := map[*unit][]placed{}
	for _, id := range r.ids() {
		objects := r.inv.units[id]
		if superseded[id] {
			if len(objects) > 0 {
				r.discard(id, true, objects)
				delete(gone, id)
			}
			for _, id := range r.supersededBy(id) {
				superseded[id] = true
			}
			continue
		}
		backup, skip, err := r.backup(id, objects)
		if err != nil {
			return err
		}
		if skip {
			continue
		}
		if backup == nil && !committed(objects) {
			if err := r.leftover(id, objects, head != nil); err != nil {
				return err
			}
			continue
		}
		u, p, err := r.readUnit(id, objects, backup)
		if err != nil {
			if head == nil || ReasonOf(err) != Corrupt {
				return err
			}
			r.doubtful = append(r.doubtful, doubt{objects, err})
			continue
		}
		if head == nil {
			head = p
			for _, id := range p.superseded {
				gone[id] = true
			}
		}
		for _, id := range p.superseded {
			superseded[id] = true
		}
		r.units = append(r.units, u)
		records[u] = p.records
	}
	slices.Reverse(r.units)
	slices.Reverse(r.waste)
	r.inherit(slices.Sorted(maps.Keys(gone)))
	r.attempted = max(r.Head(), r.mem.highest())
	if head == nil {
		return nil
	}
	if err := r.checkWhole(head); err != nil {
		return err
	}
	for _, u := range r.units {
		for _, placed := range records[u] {
			r.place(u, placed)
		}
	}
	for key := range maps.Clone(r.index) {
		r.settle(key)
	}
	return nil
}

// ids are all commit ids on the token and in the shadow, the newest first.
func (r *recovery) ids() []uint64 {
	ids := slices.AppendSeq(slices.Collect(maps.Keys(r.inv.units)), maps.Keys(r.mem.units))
	slices.Sort(ids)
	slices.Reverse(ids)
	return slices.Compact(ids)
}

// supersededBy is the list of a unit in the shadow, which keeps units for longer
// than later lists name them.
func (r *recovery) supersededBy(id uint64) []uint64 {
	b := r.mem.units[id]
	if b == nil {
		return nil
	}
	var content []byte
	for _, value := range b.parts {
		if _, piece, err := r.keys.open(value); err == nil {
			content = append(content, piece...)
			clear(piece)
		}
	}
	p, err := decodePayload(id, content)
	clear(content)
	if err != nil {
		return nil // Then the head's digest tells whether anything is wrong.
	}
	return p.superseded
}

// backup is the shadow's copy of a unit, nil if there is none that counts. skip
// tells that the unit was reported as not made.
func (r *recovery) backup(id uint64, objects []numberedObject) (b *backup, skip bool, err error) {
	b = r.mem.units[id]
	if b != nil && r.mem.fates[b.name] == entryUnsettled {
		e := wal.Entry{Kind: entryMade, Body: b.name.encode()}
		if !committed(objects) {
			e.Kind, b = entryFailed, nil
		}
		r.settled = append(r.settled, e)
	}
	if b != nil || len(objects) == 0 {
		return b, b == nil, nil
	}
	name, authentic, err := r.nameOf(id, objects[0])
	if err == nil && (authentic && r.mem.fates[name] == entryFailed || !authentic && r.mem.failed(id)) {
		r.discard(id, true, objects)
		last := len(r.waste) - 1
		r.refused, r.waste = append(r.refused, r.waste[last]), r.waste[:last]
		return nil, true, nil
	}
	return nil, false, err
}

// checkWhole compares what was read with what the head says there has to be.
// Then all else that is older than the head is not of the store.
func (r *recovery) checkWhole(head *payload) error {
	earlier := r.units[:len(r.units)-1]
	if head.live != uint64(len(earlier)) || head.digest != digestOf(idsOf(earlier)) {
		if len(r.doubtful) > 0 {
			return r.doubtful[0].err
		}
		return errorf(Corrupt, "the token holds %d earlier commits, and commit %016x was made with %d: some were lost, or came back. Nothing was changed; restore them from the shadow or a mirror",
			len(earlier), r.Head(), head.live)
	}
	for _, d := range r.doubtful {
		for _, o := range d.objects {
			r.quarantine(o.Object)
		}
	}
	return nil
}

// segmentCopy is an object that holds an authentic segment of the unit.
type segmentCopy struct {
	numberedObject
	value, piece []byte
}

// readUnit reads and authenticates all objects of a unit. Parts that the token
// does not hold whole are taken from the backup, if there is one.
func (r *recovery) readUnit(id uint64, objects []numberedObject, b *backup) (*unit, *payload, error) {
	u := &unit{id: id}
	parts := -1
	if b != nil {
		u.unit, parts = b.name.unit, len(b.parts)
	}
	copies := map[uint16]segmentCopy{}
	var extra, torn []numberedObject
	var failure error
	for _, o := range objects {
		value, err := r.values.of(o.Object)
		if err != nil && ReasonOf(err) != Corrupt {
			return nil, nil, err
		}
		var h header
		var piece []byte
		if err == nil {
			h, piece, err = r.keys.open(value)
		}
		if err == nil && (h.commit != id || h.part != o.part) {
			err = fmt.Errorf("it holds part %d of commit %016x", h.part, h.commit)
		}
		if err != nil {
			torn = append(torn, o)
			if failure == nil {
				failure = corruptObject(o.Label, err)
			}
			continue
		}
		if parts < 0 {
			u.unit, parts = h.unit, int(h.parts)
		}
		if b == nil && o.part == 0 && h.unit != u.unit {
			return nil, nil, corruptObject(o.Label, fmt.Errorf("there are two different commits %016x", id))
		}
		if _, twice := copies[o.part]; twice || h.unit != u.unit {
			// The same object twice, or of a commit that was given up.
			clear(piece)
			extra = append(extra, o)
			continue
		}
		copies[o.part] = segmentCopy{o, value, piece}
	}
	if _, ok := copies[0]; b == nil && !ok {
		return nil, nil, failure // its commit segment is not whole
	}
	content, err := r.assemble(u, parts, copies, b)
	if err != nil {
		if failure != nil {
			err = failure
		}
		return nil, nil, err
	}
	p, err := decodePayload(id, content)
	clear(content)
	if err != nil {
		return nil, nil, corruptObject(u.parts[0].Label, err)
	}
	if len(extra) > 0 {
		r.discard(id, false, extra)
	}
	if b != nil {
		r.replaced = append(r.replaced, torn...)
	} else if len(torn) > 0 {
		r.doubtful = append(r.doubtful, doubt{torn, failure})
	}
	return u, p, nil
}

// assemble puts the parts of a unit together.
func (r *recovery) assemble(u *unit, parts int, copies map[uint16]segmentCopy, b *backup) (content []byte, err error) {
	for i := range parts {
		c, ok := copies[uint16(i)]
		switch {
		case ok:
			r.count(len(c.value))
		case b == nil:
			return nil, errorf(Corrupt, "of the %d parts of commit %016x, number %d is missing. Nothing was changed; restore it from the shadow or a mirror", parts, u.id, i)
		default:
			h, piece, err := r.keys.open(b.parts[i])
			if err == nil && (h.commit != u.id || int(h.part) != i) {
				err = fmt.Errorf("it holds part %d of commit %016x", h.part, h.commit)
			}
			if err != nil {
				return nil, corruptObject("in the shadow of "+segmentLabel(u.id, uint16(i)), err)
			}
			c.Object = pkcs11.Object{Label: segmentLabel(u.id, uint16(i)), Application: application}
			c.value, c.piece = b.parts[i], piece
			r.lost[u] = append(r.lost[u], i)
		}
		u.parts = append(u.parts, part{object{c.Object, len(c.value)}, len(content), len(c.piece)})
		r.sealed[u] = append(r.sealed[u], c.value)
		content = append(content, c.piece...)
		clear(c.piece)
	}
	return content, nil
}

// leftover is parts without a commit segment, which were never acknowledged:
// they are left to CollectGarbage, whole or not. Those of another store are not.
func (r *recovery) leftover(id uint64, objects []numberedObject, older bool) error {
	var ours []numberedObject
	for _, o := range objects {
		value, err := r.values.of(o.Object)
		if err != nil && ReasonOf(err) != Corrupt {
			return err
		}
		if h, invalid := decodeHeader(value); err == nil && invalid == nil && h.store != r.keys.store {
			if _, _, err := r.keys.open(value); err != nil {
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
		r.discard(id, false, ours)
	}
	return nil
}

// discard leaves objects to CollectGarbage.
func (s *Store) discard(id uint64, superseded bool, objects []numberedObject) {
	w := waste{id: id, superseded: superseded}
	for _, o := range objects {
		w.objects = append(w.objects, object{o.Object, s.profile.SegmentBytes})
		s.count(s.profile.SegmentBytes)
	}
	s.waste = append(s.waste, w)
}

// quarantine leaves an object of ours that is not of the store where it is: it
// may be of use to a person.
func (s *Store) quarantine(o pkcs11.Object) {
	s.findings.Quarantined = append(s.findings.Quarantined, o.Label)
}

// count adds to the bytes of the store.
func (s *Store) count(bytes int) { s.bytes += bytes }

func idsOf(units []*unit) []uint64 {
	ids := make([]uint64, len(units))
	for i, u := range units {
		ids[i] = u.id
	}
	return ids
}
