// SPDX-License-Identifier: Apache-2.0

package mvcc

import (
	"sort"
	"time"
)

// Limits bound how much of the past is remembered. What exceeds one of them is
// forgotten, oldest first.
type Limits struct {
	Events int           // How many changes.
	Bytes  int64         // How much memory, their sealed data included.
	Age    time.Duration // How long.
}

// Event is one change of the store. Before is nil when it created the record,
// After is nil when it deleted it.
type Event struct {
	Revision      uint64
	Before, After *Record
	time          time.Time
}

// Key is that of the record.
func (e Event) Key() string {
	if e.After != nil {
		return e.After.Key
	}
	return e.Before.Key
}

// versions are those whose data the event speaks of: one or two.
func (e Event) versions() []Version {
	switch {
	case e.Before == nil:
		return []Version{e.After.Version()}
	case e.After == nil || e.Before.Version() == e.After.Version():
		return []Version{e.Before.Version()}
	}
	return []Version{e.Before.Version(), e.After.Version()}
}

// size is an upper bound of the memory that the event keeps, without data.
func (e Event) size() int64 {
	const fixed = 256
	n := fixed
	for _, r := range []*Record{e.Before, e.After} {
		if r != nil {
			n += len(r.Key) + len(r.Address) + len(r.Meta) + len(r.Status)
		}
	}
	return int64(n)
}

// history is the last events in order, and the data of their records: sealed,
// or still on the token. A commit that overwrites data seals the old data
// first; so whatever an event speaks of can be had as long as the event can.
type history struct {
	limits    Limits
	events    []Event
	compacted uint64 // Of the last event that was forgotten.
	data      map[Version]*versionData
	bytes     int64
}

// versionData is the data of a version that events speak of.
type versionData struct {
	sealed Sealed // nil: not needed yet; the token has it.
	events int    // How many speak of it.
}

func newHistory(limits Limits, revision uint64) history {
	return history{limits: limits, compacted: revision, data: map[Version]*versionData{}}
}

func (h *history) append(e Event) {
	for _, v := range e.versions() {
		if h.data[v] == nil {
			h.data[v] = &versionData{}
		}
		h.data[v].events++
	}
	h.events = append(h.events, e)
	h.bytes += e.size()
}

// keep keeps the sealed data of a version that some event speaks of.
func (h *history) keep(v Version, sealed Sealed) {
	if kept := h.data[v]; kept != nil && kept.sealed == nil {
		kept.sealed = sealed
		h.bytes += int64(len(sealed))
	}
}

// after returns the events above a revision.
func (h *history) after(revision uint64) []Event {
	i := sort.Search(len(h.events), func(i int) bool { return h.events[i].Revision > revision })
	return h.events[i:]
}

// trim forgets what exceeds the limits.
func (h *history) trim(now time.Time) {
	for len(h.events) > 0 && (len(h.events) > h.limits.Events || h.bytes > h.limits.Bytes ||
		now.Sub(h.events[0].time) > h.limits.Age) {
		h.forgetFirst()
	}
}

// compact forgets all events up to a revision.
func (h *history) compact(revision uint64) {
	for len(h.events) > 0 && h.events[0].Revision <= revision {
		h.forgetFirst()
	}
	h.compacted = max(h.compacted, revision)
}

func (h *history) forgetFirst() {
	e := h.events[0]
	h.events[0] = Event{} // The array behind the slice lives on.
	h.events = h.events[1:]
	h.bytes -= e.size()
	for _, v := range e.versions() {
		kept := h.data[v]
		if kept.events--; kept.events == 0 {
			h.bytes -= int64(len(kept.sealed))
			delete(h.data, v)
		}
	}
	h.compacted = e.Revision
}
