// SPDX-License-Identifier: Apache-2.0

// Package token owns the format of a store on a token: segments, records,
// commits, the sealing of the store's keys, and recovery (docs/token-format.md).
// It never caches a value, never destroys what it does not understand, and
// knows nothing of PINs, sessions and Kubernetes.
package token

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token/wal"
)

// Options say what Open may find and do.
type Options struct {
	// Provision lets Open make a store on a blank token. It has no effect when
	// StoreID is set: a token that was wiped is not silently begun anew.
	Provision bool
	// StoreID is the store that the caller serves, in hex; empty if none yet.
	// After provisioning the caller keeps ID before it commits anything.
	StoreID string
	// Profile is the limits to keep; if it is zero, those of ProfileFor.
	Profile Profile
	// Log is where the store is noted beside the token, sealed as on it, before
	// the token is touched. With it recovery brings back what the token lost
	// after it said that it was stored. It is of this token alone.
	Log *wal.Log
	// Adopt, if it is not nil, lets Open make the store of another id that is on
	// the token into the store StoreID.
	Adopt *Adoption
}

// Store is a store on one token. It is used by one goroutine at a time, and not
// longer than the session of its Device.
type Store struct {
	dev     Device
	options Options
	profile Profile
	keys    *sealer
	keyring []byte // as on the token
	shadow  *wal.Log

	// index holds the newest record of each key, and the deletions that older
	// puts of their key still have to be kept down by.
	index map[string]*entry
	// puts counts the puts of a key in units.
	puts map[string]int
	// units are those that are not superseded, by ascending id. The last one is
	// the head; it is superseded only by its successor.
	units []*unit
	// waste is what CollectGarbage destroys.
	waste []waste
	// graveyard is the ids of the last superseded units that were destroyed. A
	// power cut can bring one back, so the head still lists them. The first ones,
	// inherited, were destroyed before the store was opened, in an unknown order.
	graveyard []uint64
	inherited int

	objects, bytes int // on the token; bytes only of the store
	foreign        int
	legacy         []pkcs11.Object
	attempted      uint64 // the highest id given to a commit
	reserved       uint64 // the highest revision that may have been given
	stale          error  // why what the token holds is no longer known
	findings       RecoveryReport

	plan   [][]*entry // of packing: the records that each commit moves
	wanted demand     // of the last change that was refused

	values      *values // only while it is opened
	lostKeyring bool    // the token does not hold it
}

// entry is a record in the index, without data.
type entry struct {
	placed
	unit *unit
}

// unit is what one commit put on the token.
type unit struct {
	id    uint64
	unit  [unitIDBytes]byte
	parts []part   // by part number: the commit segment is the first
	puts  []string // the keys it puts
	// live is how many entries of the index are in it, records how many of them
	// are not deletions.
	live, records int
}

// part is one segment of a unit: an object, and where its piece lies in the payload.
type part struct {
	object
	start, size int
}

// object is an object of the store. An unread one is counted with the longest
// possible length.
type object struct {
	pkcs11.Object
	bytes int
}

// waste is the objects of one unit that is superseded, or was never committed.
type waste struct {
	id         uint64
	superseded bool
	objects    []object
}

// Open finds the store on a token, or makes one, and recovers it. What it
// cannot read, authenticate or account for makes it fail with a reason; it
// never gives a part of a store. It reads each segment once. It writes only what
// the token lost and the shadow holds, and only after the whole store was found on
// the two together; and destroys only what was superseded, to make room for that,
// and what was reported as not made.
// Before it, the session's module has
// to be re-initialised if an earlier store failed with OutcomeUnknown: some
// modules answer from memory.
func Open(dev Device, o Options) (*Store, error) {
	s := &Store{
		dev: dev, options: o, profile: o.Profile, shadow: o.Log,
		index: map[string]*entry{}, puts: map[string]int{},
		values: &values{dev: dev, read: map[pkcs11.Handle]reading{}},
	}
	if s.profile == (Profile{}) {
		s.profile = ProfileFor(dev.Info())
	}
	objects, err := dev.Objects()
	if err != nil {
		return nil, fmt.Errorf("listing the token's objects: %w", err)
	}
	inv, err := takeInventory(objects)
	if err != nil {
		return nil, err
	}
	s.objects, s.foreign, s.legacy = len(objects), inv.foreign, inv.legacy
	mem, err := s.readShadow()
	if err != nil {
		return nil, err
	}
	r := &recovery{Store: s, inv: inv, mem: mem, sealed: map[*unit][][]byte{}, lost: map[*unit][]int{}}
	if err := r.open(o); err != nil {
		return nil, err
	}
	s.values = nil
	if o.Adopt != nil && s.ID() != o.StoreID {
		if err := s.adopt(o); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// ID names the store, in hex.
func (s *Store) ID() string { return s.keys.store.String() }

// Head is the highest durable revision, deletions included; 0 if there was
// never a commit.
func (s *Store) Head() uint64 {
	if len(s.units) == 0 {
		return 0
	}
	return s.units[len(s.units)-1].id
}

// Contains reports whether the commit whose highest revision this is has been
// made. Asked of a store that was opened after OutcomeUnknown, it is the outcome.
func (s *Store) Contains(revision uint64) bool {
	return slices.ContainsFunc(s.units, func(u *unit) bool { return u.id == revision })
}

// Records gives all records in key order, without data.
func (s *Store) Records() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, key := range slices.Sorted(maps.Keys(s.index)) {
			if e := s.index[key]; !e.Delete && !yield(e.Record) {
				return
			}
		}
	}
}

// Data reads the data of a record from the token and authenticates it. That is
// one value read, and more only for a record longer than a segment. A key that
// the store does not hold is NotFound. An object that has gone is
// an error of the device, or Corrupt; it never looks like an absent record.
func (s *Store) Data(key string) ([]byte, error) {
	if s.stale != nil {
		return nil, s.staleError()
	}
	e, ok := s.index[key]
	if !ok || e.Delete {
		return nil, errorf(NotFound, "the store holds no record %q", key)
	}
	data := make([]byte, 0, e.size)
	for i, p := range e.unit.parts {
		from, to := max(e.at, p.start), min(e.at+e.size, p.start+p.size)
		if from >= to && (e.size > 0 || i > 0) { // also empty data is asked for
			continue
		}
		piece, err := s.readPart(e.unit, i)
		if err != nil {
			return nil, err
		}
		if from < to {
			data = append(data, piece[from-p.start:to-p.start]...)
		}
		clear(piece)
	}
	return data, nil
}

// readPart reads a part again, and checks that it is the same as before.
func (s *Store) readPart(u *unit, i int) ([]byte, error) {
	p := u.parts[i]
	value, err := s.dev.Value(p.Handle)
	if err != nil {
		return nil, fmt.Errorf("reading object %q: %w", p.Label, err)
	}
	h, piece, err := s.keys.open(value)
	if err == nil && (h.commit != u.id || int(h.part) != i || h.unit != u.unit || len(piece) != p.size) {
		err = fmt.Errorf("it holds part %d of commit %016x", h.part, h.commit)
	}
	if err != nil {
		return nil, corruptObject(p.Label, err)
	}
	return piece, nil
}

func corruptObject(label string, err error) error {
	return &Error{Reason: Corrupt, Message: fmt.Sprintf("object %q is not what was written. Nothing was changed; restore it from the shadow or a mirror", label), Err: err}
}

func (s *Store) staleError() error {
	return &Error{Reason: Stale, Message: "the store has to be opened again", Err: s.stale}
}

// place enters a record of a unit into the index if it is the newest of its key.
func (s *Store) place(u *unit, r placed) {
	if !r.Delete {
		u.puts = append(u.puts, r.Record.Key)
		s.puts[r.Record.Key]++
	}
	old := s.index[r.Record.Key]
	if old != nil && old.Record.Revision > r.Record.Revision {
		return
	}
	if old != nil {
		old.unit.live--
		if !old.Delete {
			old.unit.records--
		}
	}
	u.live++
	if !r.Delete {
		u.records++
	}
	r.Record.Data = nil
	s.index[r.Record.Key] = &entry{placed: r, unit: u}
}

// settle drops the deletion of a key that no unit puts any more.
func (s *Store) settle(key string) {
	if e := s.index[key]; e != nil && e.Delete && s.puts[key] == 0 {
		e.unit.live--
		delete(s.index, key)
		delete(s.puts, key)
	}
}
