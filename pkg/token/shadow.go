// SPDX-License-Identifier: Apache-2.0

package token

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"j5t.io/hsm/pkg/token/wal"
)

// What an entry of the shadow holds.
const (
	entryKeyring   = 1 // a keyring, as on the token; the last one counts
	entrySegment   = 2 // a segment, as on the token
	entryFailed    = 3 // the name of a unit that was reported as not made: it never counts
	entryUnsettled = 4 // the name of a unit whose outcome was reported as unknown: the token decides
	entryMade      = 5 // the name of a unit that was made, though its outcome was unknown, or its segments were dropped
	entryReserved  = 6 // a revision below which any may have been given
)

const (
	unitNameBytes = 8 + unitIDBytes
	// rememberedNames is how many units without segments a shadow names.
	rememberedNames = 64
	// The shadow is rewritten when it is longer than twice what it needs, and this.
	shadowSlack = 64 << 10
)

// unitName tells a unit from all others, also from one of the same commit id.
type unitName struct {
	commit uint64
	unit   [unitIDBytes]byte
}

func (n unitName) encode() []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, unitNameBytes), n.commit), n.unit[:]...)
}

func decodeUnitName(b []byte) (n unitName, err error) {
	if len(b) != unitNameBytes {
		return n, fmt.Errorf("a unit's name has %d bytes", len(b))
	}
	n.commit = binary.BigEndian.Uint64(b)
	copy(n.unit[:], b[8:])
	return n, nil
}

// backup is a unit in the shadow, whole.
type backup struct {
	name  unitName
	parts [][]byte // as on the token
}

// memory is what a shadow says.
type memory struct {
	store    storeID
	keyring  []byte             // nil: none
	units    map[uint64]*backup // by commit id, those that failed left out
	fates    map[unitName]byte  // the entry that tells what became of a unit
	ids      map[uint64]bool    // of all units
	reserved uint64
}

// remember makes sense of a shadow's entries.
func remember(entries []wal.Entry) (*memory, error) {
	m := &memory{units: map[uint64]*backup{}, fates: map[unitName]byte{}, ids: map[uint64]bool{}}
	for i, e := range entries {
		if err := m.add(e); err != nil {
			return nil, fmt.Errorf("entry %d of the shadow: %w", i, err)
		}
	}
	for id, b := range m.units {
		if m.fates[b.name] == entryFailed || slices.ContainsFunc(b.parts, func(p []byte) bool { return p == nil }) {
			delete(m.units, id)
		}
	}
	return m, nil
}

func (m *memory) add(e wal.Entry) error {
	switch e.Kind {
	case entryKeyring:
		k, err := decodeKeyring(e.Body)
		if err != nil {
			return err
		}
		m.store, m.keyring = k.store, e.Body
	case entrySegment:
		h, err := decodeHeader(e.Body)
		if err != nil {
			return err
		}
		name := unitName{h.commit, h.unit}
		b := m.units[h.commit]
		if b == nil || b.name != name || len(b.parts) != int(h.parts) {
			b = &backup{name, make([][]byte, h.parts)}
			m.units[h.commit] = b
		}
		b.parts[h.part] = e.Body
		m.settle(name, entrySegment)
	case entryFailed, entryUnsettled, entryMade:
		name, err := decodeUnitName(e.Body)
		if err != nil {
			return err
		}
		m.settle(name, e.Kind)
	case entryReserved:
		if len(e.Body) != 8 {
			return fmt.Errorf("a revision has %d bytes", len(e.Body))
		}
		m.reserved = max(m.reserved, binary.BigEndian.Uint64(e.Body))
	default:
		return fmt.Errorf("unknown kind %d: a later version wrote it", e.Kind)
	}
	return nil
}

func (m *memory) settle(name unitName, kind byte) {
	m.fates[name] = kind
	m.ids[name.commit] = true
	m.reserved = max(m.reserved, name.commit)
}

// failed tells whether a commit of this id was reported as not made.
func (m *memory) failed(id uint64) bool {
	for name, fate := range m.fates {
		if name.commit == id && fate == entryFailed {
			return true
		}
	}
	return false
}

// highest is the highest commit id that the shadow names.
func (m *memory) highest() (id uint64) {
	for other := range m.ids {
		id = max(id, other)
	}
	return id
}

// forget leaves only what holds for a token that has lived elsewhere.
func (m *memory) forget() *memory {
	empty, _ := remember(nil)
	empty.reserved = m.reserved
	return empty
}

// readShadow is what the shadow says, nothing if there is none.
func (s *Store) readShadow() (*memory, error) {
	m, err := remember(nil)
	if s.shadow == nil {
		return m, err
	}
	entries, err := s.shadow.Read()
	if err == nil {
		m, err = remember(entries)
	}
	if err != nil {
		return nil, &Error{Reason: LogFailed, Message: "the token's shadow cannot be used", Err: err}
	}
	s.findings.Log = LogNew
	if m.keyring != nil {
		s.findings.Log = LogCurrent
	}
	return m, nil
}

// note puts entries on the disk before the token is touched.
func (s *Store) note(entries ...wal.Entry) error {
	if s.shadow == nil {
		return nil
	}
	return s.shadow.Append(entries...)
}

// noteUnit notes a unit that is about to be written.
func (s *Store) noteUnit(u *unit, segments [][]byte) error {
	entries := make([]wal.Entry, len(segments))
	for i, segment := range segments {
		entries[i] = wal.Entry{Kind: entrySegment, Body: segment}
	}
	err := s.note(entries...)
	var uncertain wal.UncertainError
	switch {
	case errors.As(err, &uncertain):
		s.stale = err
		return &Error{Reason: OutcomeUnknown, Message: fmt.Sprintf("it is not known whether commit %016x will be made from the shadow", u.id), Err: err}
	case err != nil:
		return &Error{Reason: LogFailed, Message: "nothing was changed, for it could not be noted beside the token", Err: err}
	}
	return nil
}

// noteFate notes what is going to be reported of a unit.
func (s *Store) noteFate(u *unit, kind byte) error {
	return s.note(wal.Entry{Kind: kind, Body: unitName{u.id, u.unit}.encode()})
}

// Reserved is the highest revision that may have been given, to a commit, made or
// not, or by Reserve. It is never below Head, and without a shadow not above it.
func (s *Store) Reserved() uint64 { return s.reserved }

// Reserve makes sure that a revision is never given again, whatever the clock
// says after a restart. Only when it is above Reserved it costs a write, of the
// shadow, which then reserves as many more as ahead says. Without a shadow it
// does nothing.
func (s *Store) Reserve(revision, ahead uint64) error {
	if s.shadow == nil || revision <= s.reserved {
		return nil
	}
	if s.stale != nil {
		return s.staleError()
	}
	mark := revision + ahead
	if err := s.note(reservedEntry(mark)); err != nil {
		return &Error{Reason: LogFailed, Message: fmt.Sprintf("revision %d cannot be given, for it could not be reserved", revision), Err: err}
	}
	s.reserved = mark
	return nil
}

func reservedEntry(revision uint64) wal.Entry {
	return wal.Entry{Kind: entryReserved, Body: binary.BigEndian.AppendUint64(nil, revision)}
}

// rewriteShadow gives the shadow the store as it is, and drops what was
// superseded. The values of parts come from value.
func (s *Store) rewriteShadow(m *memory, value func(u *unit, part int) ([]byte, error)) error {
	names := maps.Clone(m.fates)
	entries := []wal.Entry{{Kind: entryKeyring, Body: s.keyring}, reservedEntry(s.reserved)}
	var segments []wal.Entry
	for _, u := range s.units {
		delete(names, unitName{u.id, u.unit})
		for i := range u.parts {
			v, err := value(u, i)
			if err != nil {
				return err
			}
			segments = append(segments, wal.Entry{Kind: entrySegment, Body: v})
		}
	}
	newest := slices.SortedFunc(maps.Keys(names), func(a, b unitName) int { return cmp.Compare(b.commit, a.commit) })
	for _, name := range newest[:min(len(newest), rememberedNames)] {
		kind := names[name]
		if kind == entrySegment {
			kind = entryMade
		}
		entries = append(entries, wal.Entry{Kind: kind, Body: name.encode()})
	}
	if err := s.shadow.Replace(append(entries, segments...)); err != nil {
		return &Error{Reason: LogFailed, Message: "the token's shadow could not be rewritten", Err: err}
	}
	return nil
}

// bloated tells whether the shadow holds much that was superseded.
func (s *Store) bloated() bool {
	return s.shadow != nil && s.shadow.Size() > 2*s.bytes+shadowSlack
}

// compactShadow rewrites a shadow that was bloated.
func (s *Store) compactShadow() error {
	entries, err := s.shadow.Read()
	var m *memory
	if err == nil {
		m, err = remember(entries)
	}
	if err != nil {
		return &Error{Reason: LogFailed, Message: "the token's shadow cannot be used", Err: err}
	}
	return s.rewriteShadow(m, func(u *unit, i int) ([]byte, error) {
		if b := m.units[u.id]; b != nil && b.name == (unitName{u.id, u.unit}) {
			return b.parts[i], nil
		}
		value, err := s.dev.Value(u.parts[i].Handle)
		if err != nil {
			return nil, fmt.Errorf("reading object %q: %w", u.parts[i].Label, err)
		}
		return value, nil
	})
}
