// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// legacyApplication is CKA_APPLICATION of the older operator's objects.
const legacyApplication = "hsm-secrets-operator"

// inventory is the token's objects, by what their labels say.
type inventory struct {
	keyrings        []pkcs11.Object             // by descending generation
	units           map[uint64][]numberedObject // by commit id, each by part number
	segments        int
	foreign, legacy int
}

type numberedObject struct {
	pkcs11.Object
	part uint16
}

func takeInventory(objects []pkcs11.Object) (*inventory, error) {
	inv := &inventory{units: map[uint64][]numberedObject{}}
	generations := map[pkcs11.Handle]uint32{}
	for _, o := range objects {
		if o.Application != application {
			inv.foreign++
			if o.Application == legacyApplication {
				inv.legacy++
			}
			continue
		}
		if id, part, ok := parseSegmentLabel(o.Label); ok {
			inv.units[id] = append(inv.units[id], numberedObject{o, part})
			inv.segments++
			continue
		}
		generation, ok := parseKeyringLabel(o.Label)
		if !ok {
			return nil, errorf(Corrupt, "object %q is of application %s and of no kind that this version knows. Nothing was changed; use the version that wrote it", o.Label, application)
		}
		generations[o.Handle] = generation
		inv.keyrings = append(inv.keyrings, o)
	}
	slices.SortFunc(inv.keyrings, func(a, b pkcs11.Object) int {
		return cmp.Compare(generations[b.Handle], generations[a.Handle])
	})
	for _, objects := range inv.units {
		slices.SortStableFunc(objects, func(a, b numberedObject) int { return cmp.Compare(a.part, b.part) })
	}
	return inv, nil
}

// recover reads the units from the newest to the oldest. The newest one says
// which of the others have been superseded, and of which the store is made up;
// any difference to what is there is an error.
func (s *Store) recover(inv *inventory) error {
	var head *payload
	superseded := map[uint64]bool{}
	records := map[*unit][]placed{}
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(inv.units))) {
		objects := inv.units[id]
		if superseded[id] {
			s.discard(id, true, objects)
			delete(superseded, id)
			continue
		}
		if objects[0].part != 0 {
			// Its commit segment is not there, so it was never acknowledged.
			if err := s.checkTorn(objects); err != nil {
				return err
			}
			s.discard(id, false, objects)
			continue
		}
		u, p, err := s.readUnit(id, objects)
		if err != nil {
			return err
		}
		if head == nil {
			head = p
			for _, id := range p.superseded {
				superseded[id] = true
			}
		}
		s.units = append(s.units, u)
		records[u] = p.records
	}
	slices.Reverse(s.units)
	slices.Reverse(s.waste)
	for _, id := range slices.Sorted(maps.Keys(superseded)) {
		s.bury(id)
	}
	s.attempted = s.Head()
	if head == nil {
		return nil
	}

	earlier := s.units[:len(s.units)-1]
	if head.live != uint64(len(earlier)) || head.digest != digestOf(idsOf(earlier)) {
		return errorf(Corrupt, "the token holds %d earlier commits, and commit %016x was made with %d: some were lost, or came back. Nothing was changed; restore them from the shadow or a mirror",
			len(earlier), s.Head(), head.live)
	}
	for _, u := range s.units {
		for _, r := range records[u] {
			s.place(u, r)
		}
	}
	for key := range maps.Clone(s.index) {
		s.settle(key)
	}
	return nil
}

// readUnit reads and authenticates all objects of a unit.
func (s *Store) readUnit(id uint64, objects []numberedObject) (*unit, *payload, error) {
	u := &unit{id: id}
	var content []byte
	var parts int
	var extra []numberedObject
	for i, o := range objects {
		value, err := s.dev.Value(o.Handle)
		if err != nil {
			return nil, nil, unreadable(s.dev, o.Object, err)
		}
		h, piece, err := s.keys.open(value)
		if err == nil && (h.commit != id || h.part != o.part) {
			err = fmt.Errorf("it holds part %d of commit %016x", h.part, h.commit)
		}
		if i == 0 {
			u.unit, parts = h.unit, int(h.parts)
		}
		if err == nil && o.part == 0 && h.unit != u.unit {
			err = fmt.Errorf("there are two different commits %016x", id)
		}
		if err != nil {
			return nil, nil, corruptObject(o.Label, err)
		}
		if h.unit != u.unit || int(o.part) < len(u.parts) {
			// Of a commit that was given up, or the same object twice.
			extra = append(extra, o)
			continue
		}
		if int(o.part) != len(u.parts) {
			break
		}
		u.parts = append(u.parts, part{object{o.Object, len(value)}, len(content), len(piece)})
		s.count(len(value))
		content = append(content, piece...)
		clear(piece)
	}
	if len(u.parts) != parts {
		return nil, nil, errorf(Corrupt, "of the %d parts of commit %016x, number %d is missing. Nothing was changed; restore it from the shadow or a mirror", parts, id, len(u.parts))
	}
	p, err := decodePayload(id, content)
	clear(content)
	if err != nil {
		return nil, nil, corruptObject(objects[0].Label, err)
	}
	if len(extra) > 0 {
		s.discard(id, false, extra)
	}
	return u, p, nil
}

// checkTorn makes sure that parts without a commit segment are not another
// store's. Whether they are whole does not matter.
func (s *Store) checkTorn(objects []numberedObject) error {
	for _, o := range objects {
		value, err := s.dev.Value(o.Handle)
		if err != nil {
			if err := unreadable(s.dev, o.Object, err); ReasonOf(err) != Corrupt {
				return err
			}
			continue
		}
		if h, err := decodeHeader(value); err == nil && h.store != s.keys.store {
			return corruptObject(o.Label, fmt.Errorf("it belongs to store %s", h.store))
		}
	}
	return nil
}

// discard leaves objects to Tidy, without having read them.
func (s *Store) discard(id uint64, superseded bool, objects []numberedObject) {
	w := waste{id: id, superseded: superseded}
	for _, o := range objects {
		w.objects = append(w.objects, object{o.Object, s.profile.SegmentBytes})
		s.count(s.profile.SegmentBytes)
	}
	s.waste = append(s.waste, w)
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
