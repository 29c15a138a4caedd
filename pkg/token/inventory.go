// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
)

// inventory is the token's objects, by what their labels say.
type inventory struct {
	keyrings []pkcs11.Object             // by descending generation
	units    map[uint64][]numberedObject // by commit id, each by part number
	segments int
	foreign  int
	legacy   []pkcs11.Object // counted in foreign too
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
				inv.legacy = append(inv.legacy, o)
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

// committed tells whether there is a commit segment among a unit's objects.
func committed(objects []numberedObject) bool { return len(objects) > 0 && objects[0].part == 0 }

// values are what was read from the token while a store was opened: each object
// is read once.
type values struct {
	dev  Device
	read map[pkcs11.Handle]reading
}

type reading struct {
	value []byte
	err   error
}

// of is the value of an object of ours. The error is Corrupt if it is the object
// that cannot be read, and the device's own else.
func (v *values) of(o pkcs11.Object) ([]byte, error) {
	r, known := v.read[o.Handle]
	if !known {
		r.value, r.err = v.dev.Value(o.Handle)
		if r.err != nil {
			r.err = unreadable(v.dev, o, r.err)
		}
		v.read[o.Handle] = r
	}
	return r.value, r.err
}
