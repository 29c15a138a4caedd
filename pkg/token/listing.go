// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/format"
)

// listing is the token's objects, by what their labels say.
type listing struct {
	objects  int
	keyrings []pkcs11.Object            // by descending generation
	commits  map[uint64][]segmentObject // by commit id, each by part number
	segments int
	foreign  int
	legacy   []pkcs11.Object // counted in foreign too
}

// segmentObject is an object that is a segment by its label.
type segmentObject struct {
	pkcs11.Object
	part uint16
}

func newListing(objects []pkcs11.Object) (*listing, error) {
	l := &listing{objects: len(objects), commits: map[uint64][]segmentObject{}}
	generations := map[pkcs11.Handle]uint32{}
	for _, o := range objects {
		if o.Application != format.Application {
			l.foreign++
			if o.Application == legacyApplication {
				l.legacy = append(l.legacy, o)
			}
			continue
		}
		if id, part, ok := format.ParseSegmentLabel(o.Label); ok {
			l.commits[id] = append(l.commits[id], segmentObject{o, part})
			l.segments++
			continue
		}
		generation, ok := format.ParseKeyringLabel(o.Label)
		if !ok {
			return nil, errorf(Corrupt, "object %q is of application %s and of no kind that this version knows. Nothing was changed; use the version that wrote it", o.Label, format.Application)
		}
		generations[o.Handle] = generation
		l.keyrings = append(l.keyrings, o)
	}
	slices.SortFunc(l.keyrings, func(a, b pkcs11.Object) int {
		return cmp.Compare(generations[b.Handle], generations[a.Handle])
	})
	for _, objects := range l.commits {
		slices.SortStableFunc(objects, func(a, b segmentObject) int { return cmp.Compare(a.part, b.part) })
	}
	return l, nil
}

// hasCommitSegment reports whether there is a commit segment among the objects of a
// commit.
func hasCommitSegment(objects []segmentObject) bool { return len(objects) > 0 && objects[0].part == 0 }

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
