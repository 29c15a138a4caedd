// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sort"
	"time"
)

// HistoryLimits bound what the agent remembers of the past. What exceeds one
// of them is forgotten, oldest first.
type HistoryLimits struct {
	Events int           // How many changes.
	Bytes  int64         // How much memory, their sealed data included.
	Age    time.Duration // How long.
}

// event is one change of the store. before is nil when it created the record,
// after is nil when it deleted it.
type event struct {
	revision      uint64
	time          time.Time
	before, after *record
}

func (e event) key() string {
	if e.after != nil {
		return e.after.key
	}
	return e.before.key
}

// versions are those whose data the event speaks of: one or two.
func (e event) versions() []version {
	switch {
	case e.before == nil:
		return []version{e.after.version()}
	case e.after == nil || e.before.version() == e.after.version():
		return []version{e.before.version()}
	}
	return []version{e.before.version(), e.after.version()}
}

// size is an upper bound of the memory that the event keeps, without data.
func (e event) size() int64 {
	const fixed = 256
	n := fixed
	for _, r := range []*record{e.before, e.after} {
		if r != nil {
			n += len(r.key) + len(r.address) + len(r.meta) + len(r.status)
		}
	}
	return int64(n)
}

// history is the last events in order, and the data of their records: sealed,
// or still on the token. A commit that overwrites data seals the old data
// first; so whatever an event speaks of can be had as long as the event can.
type history struct {
	limits    HistoryLimits
	events    []event
	compacted uint64 // Of the last event that was forgotten.
	data      map[version]*heldData
	bytes     int64
}

type heldData struct {
	sealed []byte // nil: not needed yet; the token has it.
	events int    // That speak of it.
}

func newHistory(limits HistoryLimits, revision uint64) history {
	return history{limits: limits, compacted: revision, data: map[version]*heldData{}}
}

func (h *history) append(e event) {
	for _, v := range e.versions() {
		if h.data[v] == nil {
			h.data[v] = &heldData{}
		}
		h.data[v].events++
	}
	h.events = append(h.events, e)
	h.bytes += e.size()
}

// hold keeps the sealed data of a version that some event speaks of.
func (h *history) hold(v version, sealed []byte) {
	if held := h.data[v]; held != nil && held.sealed == nil {
		held.sealed = sealed
		h.bytes += int64(len(sealed))
	}
}

// after gives the events above a revision.
func (h *history) after(revision uint64) []event {
	i := sort.Search(len(h.events), func(i int) bool { return h.events[i].revision > revision })
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
	for len(h.events) > 0 && h.events[0].revision <= revision {
		h.forgetFirst()
	}
	h.compacted = max(h.compacted, revision)
}

func (h *history) forgetFirst() {
	e := h.events[0]
	h.events[0] = event{} // The array behind the slice lives on.
	h.events = h.events[1:]
	h.bytes -= e.size()
	for _, v := range e.versions() {
		held := h.data[v]
		if held.events--; held.events == 0 {
			h.bytes -= int64(len(held.sealed))
			delete(h.data, v)
		}
	}
	h.compacted = e.revision
}

// sealer seals data for the time that it stays in the agent's memory, so that
// no value lies there in the clear. Its key dies with the process.
type sealer struct{ aead cipher.AEAD }

func newSealer() (sealer, error) {
	key := make([]byte, 32)
	rand.Read(key) // Never fails (crypto/rand).
	block, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return sealer{}, fmt.Errorf("make key of the history: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealer{}, fmt.Errorf("make key of the history: %w", err)
	}
	return sealer{aead}, nil
}

func (s sealer) seal(v version, data []byte) []byte {
	return s.aead.Seal(nil, nil, data, v.additionalData()) //nolint:gosec // The AEAD draws the nonce itself.
}

func (s sealer) open(v version, sealed []byte) ([]byte, error) {
	return s.aead.Open(nil, nil, sealed, v.additionalData())
}

func (v version) additionalData() []byte {
	return append(binary.BigEndian.AppendUint64(nil, v.dataRevision), v.key...)
}
