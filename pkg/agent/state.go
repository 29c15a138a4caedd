// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"slices"
	"strings"
	"sync"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

// maxStuckNamed is how many stuck objects a status names.
const maxStuckNamed = 64

// state is what is known of the token, for all who ask.
type state struct {
	mu        sync.Mutex
	condition condition
	token     *pkcs11.TokenInfo // nil while none is seen.
	serial    string            // Of the last one seen.
	storeID   string            // Of the last one opened.
	usage     *token.Usage      // Of the last one served.
	stuck     []string          // Labels, of the same.
	pin       pinState
	scrub     *agentv1.Scrub   // The last one.
	failing   map[string]error // Housekeeping that does not succeed, by task.
	changed   chan struct{}    // Closed when the condition changes.
}

func newState(c condition) *state {
	return &state{condition: c, failing: map[string]error{}, changed: make(chan struct{})}
}

// enter reports whether the condition was another one before.
func (s *state) enter(c condition) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.condition == c {
		return false
	}
	s.condition = c
	close(s.changed)
	s.changed = make(chan struct{})
	return true
}

// now also gives a channel that is closed when the condition changes.
func (s *state) now() (condition, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.condition, s.changed
}

// seen notes which token is in the reader; nil is none.
func (s *state) seen(t *pkcs11.TokenInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token = t; t != nil {
		s.serial = t.Serial
	}
}

func (s *state) opened(storeID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.storeID = storeID
}

func (s *state) identity() (t *pkcs11.TokenInfo, serial string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token, s.serial
}

func (s *state) setPIN(p pinState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pin = p
}

// setStore notes how full a store is.
func (s *state) setStore(store *token.Store) {
	usage, stuck := store.Usage(), store.RecoveryReport().Stuck
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage, s.stuck = &usage, stuck[:min(len(stuck), maxStuckNamed)]
}

func (s *state) setScrub(scrub *agentv1.Scrub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scrub = scrub
}

// setHousekeeping notes how a task of housekeeping goes; nil: well.
func (s *state) setHousekeeping(task string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing[task] = err
	if err == nil {
		delete(s.failing, task)
	}
}

// message says why the store is not served, or what does not go well though it is.
func (s *state) message() string {
	if !s.condition.ready() || len(s.failing) == 0 {
		return s.condition.message
	}
	var failures []string
	for _, task := range slices.Sorted(maps.Keys(s.failing)) {
		failures = append(failures, s.failing[task].Error())
	}
	return "the store is served, but housekeeping fails and is tried again later: " + strings.Join(failures, "; ")
}

// describe fills in what a status says of the token.
func (s *state) describe(out *agentv1.StatusResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Reason, out.Message = s.condition.reason, s.message()
	out.StoreId, out.Serial = s.storeID, s.serial
	if s.token != nil {
		out.FirmwareVersion, out.HardwareVersion = s.token.FirmwareVersion, s.token.HardwareVersion
	}
	out.Scrub = s.scrub
	out.PinState, out.PinMessage = s.pin.state, s.pin.message
	if s.usage != nil {
		out.Capacity = capacity(*s.usage)
		out.StuckObjects = s.stuck
		out.NeedsRelayout = s.usage.Refused > 0
	}
}

func capacity(u token.Usage) *agentv1.Capacity {
	p := u.Profile
	return &agentv1.Capacity{
		Profile:            p.Name,
		Objects:            int64(u.Objects),
		ObjectLimit:        int64(p.Objects),
		ReservedObjects:    int64(p.Reserve),
		Bytes:              int64(u.Bytes),
		ByteLimit:          int64(p.StoreBytes),
		SegmentBytes:       int64(p.SegmentBytes),
		RecordBytes:        int64(p.RecordBytes),
		SpareObjects:       int64(u.SpareObjects),
		SpareBytes:         int64(u.SpareBytes),
		FreeObjects:        int64(u.FreeObjects),
		FreeBytes:          int64(u.FreeBytes),
		ForeignObjects:     int64(u.Foreign),
		LegacyObjects:      int64(u.Legacy),
		QuarantinedObjects: int64(u.Quarantined),
	}
}
