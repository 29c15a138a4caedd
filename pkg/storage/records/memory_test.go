// SPDX-License-Identifier: Apache-2.0

package records_test

import (
	"context"
	"slices"
	"strings"
	"sync"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

const memorySerial = "MEMORY"

// memoryBackend is a backend that keeps every change, and can be made to fail.
type memoryBackend struct {
	mu      sync.Mutex
	log     []*agentv1.Event
	oldest  uint64
	changed chan struct{}
	commits []*agentv1.CommitRequest

	listErr  error // Of every list.
	watchErr error // Of every watch that has sent a message with an event.
}

var _ records.Backend = (*memoryBackend)(nil)

func newMemory() *memoryBackend {
	m := &memoryBackend{changed: make(chan struct{})}
	m.append(nil, &agentv1.Record{Key: "/first"})
	return m
}

func (m *memoryBackend) revision() uint64 { return uint64(len(m.log)) }

func (m *memoryBackend) append(previous, record *agentv1.Record) {
	e := &agentv1.Event{Type: agentv1.Event_TYPE_PUT, Record: record, Previous: previous, Revision: m.revision() + 1}
	if record == nil {
		e.Type = agentv1.Event_TYPE_DELETE
	} else {
		record.Revision = e.GetRevision()
	}
	m.log = append(m.log, e)
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memoryBackend) check(revision uint64) error {
	switch {
	case revision < m.oldest:
		return records.ErrExpired
	case revision > m.revision():
		return records.ErrFutureRevision
	}
	return nil
}

func (m *memoryBackend) at(revision uint64) map[string]*agentv1.Record {
	all := map[string]*agentv1.Record{}
	for _, e := range m.log[:revision] {
		if e.GetRecord() == nil {
			delete(all, e.GetPrevious().GetKey())
		} else {
			all[e.GetRecord().GetKey()] = e.GetRecord()
		}
	}
	return all
}

func (m *memoryBackend) Get(ctx context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := clone(m.at(m.revision())[in.GetKey()])
	if r != nil && in.GetWithoutData() {
		r.Data = nil
	}
	return &agentv1.GetResponse{Record: r, Revision: m.revision(), Serial: memorySerial}, ctx.Err()
}

func (m *memoryBackend) List(ctx context.Context, in *agentv1.ListRequest) ([]*agentv1.Record, *agentv1.ListEnd, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listErr != nil {
		return nil, nil, m.listErr
	}
	revision := in.GetRevision()
	if revision == 0 {
		revision = m.revision()
	}
	if err := m.check(revision); err != nil {
		return nil, nil, err
	}
	var list []*agentv1.Record
	for key, r := range m.at(revision) {
		if strings.HasPrefix(key, in.GetPrefix()) && key >= in.GetStartKey() {
			r = clone(r)
			if in.GetWithoutData() {
				r.Data = nil
			}
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *agentv1.Record) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	end := &agentv1.ListEnd{Revision: revision, Serial: memorySerial}
	if limit := int(in.GetLimit()); limit > 0 && limit < len(list) {
		end.Remaining = int64(len(list) - limit)
		list = list[:limit]
	}
	return list, end, ctx.Err()
}

func (m *memoryBackend) Commit(ctx context.Context, in *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commits = append(m.commits, in)
	all := m.at(m.revision())
	previous := all[in.GetKey()]
	if previous.GetRevision() != in.GetExpectedRevision() {
		return &agentv1.CommitResponse{Revision: m.revision(), Serial: memorySerial}, ctx.Err()
	}
	response := &agentv1.CommitResponse{Committed: true, Revision: m.revision() + 1, DataRevision: m.revision() + 1, Serial: memorySerial}
	switch {
	case in.GetPut() != nil:
		put := in.GetPut()
		for _, r := range all {
			if put.GetAddress() != "" && r.GetAddress() == put.GetAddress() && r.GetKey() != in.GetKey() {
				return nil, records.ErrAddressInUse
			}
		}
		if put.GetSameData() {
			response.DataRevision = previous.GetDataRevision()
		}
		m.append(previous, &agentv1.Record{
			Key: in.GetKey(), Address: put.GetAddress(), Meta: put.GetMeta(), Data: slices.Clone(put.GetData()),
			Status: put.GetStatus(), DataRevision: response.GetDataRevision(),
		})
	case in.GetSetStatus() != nil:
		r := clone(previous)
		r.Status = in.GetSetStatus().GetStatus()
		response.DataRevision = previous.GetDataRevision()
		m.append(previous, r)
	case in.GetDelete() != nil:
		m.append(previous, nil)
	}
	return response, ctx.Err()
}

func (m *memoryBackend) Watch(ctx context.Context, in *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	position := in.GetRevision()
	if position == 0 {
		position = m.revision()
	}
	if err := m.check(position); err != nil {
		return nil, nil, err
	}
	next := func() (*agentv1.WatchResponse, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for m.revision() == position {
			changed := m.changed
			m.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
			}
			m.mu.Lock()
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		if m.watchErr != nil {
			return nil, m.watchErr
		}
		response := &agentv1.WatchResponse{Revision: m.revision(), Serial: memorySerial}
		for _, e := range m.log[position:] {
			if strings.HasPrefix(e.GetRecord().GetKey()+e.GetPrevious().GetKey(), in.GetPrefix()) {
				response.Events = append(response.Events, e)
			}
		}
		position = m.revision()
		return response, nil
	}
	return &agentv1.WatchResponse{Revision: position, Serial: memorySerial}, next, ctx.Err()
}

func (m *memoryBackend) Revisions(ctx context.Context) (uint64, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revision(), m.oldest, ctx.Err()
}

func (m *memoryBackend) compact(revision uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.oldest = revision
}

func clone(r *agentv1.Record) *agentv1.Record {
	if r == nil {
		return nil
	}
	return &agentv1.Record{
		Key: r.GetKey(), Address: r.GetAddress(), Meta: r.GetMeta(), Data: r.GetData(), Status: r.GetStatus(),
		Revision: r.GetRevision(), DataRevision: r.GetDataRevision(),
	}
}
