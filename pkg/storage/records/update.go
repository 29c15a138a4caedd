// SPDX-License-Identifier: Apache-2.0

package records

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// state is what a change starts from: an object, and its record as stored.
// Without a record there is no such object yet, and obj is empty.
type state struct {
	obj    runtime.Object
	record *agentv1.Record
	from   Source
	// current is set if the state comes from the backend, not from the caller.
	current bool
}

func (st state) parts() Parts {
	r := st.record
	return Parts{Address: r.GetAddress(), Meta: r.GetMeta(), Data: r.GetData(), Status: r.GetStatus()}
}

func (p Parts) equal(q Parts) bool {
	return p.equalButStatus(q) && bytes.Equal(p.Status, q.Status)
}

func (p Parts) equalButStatus(q Parts) bool {
	return p.Address == q.Address && bytes.Equal(p.Meta, q.Meta) && bytes.Equal(p.Data, q.Data)
}

// loader reads the states of one record.
type loader struct {
	store *Store
	key   string
	new   func() runtime.Object
	// absentIsEmpty makes an empty object of an absent record.
	absentIsEmpty bool
	// mustBeCorrupt refuses a record that can be read. The state has no object then.
	mustBeCorrupt bool
}

func (l loader) load(ctx context.Context) (state, error) {
	response, err := l.store.backend.Get(ctx, &agentv1.GetRequest{Key: l.key})
	if err != nil {
		return state{}, err
	}
	st := state{obj: l.new(), record: response.GetRecord(), from: Source{Serial: response.GetSerial()}, current: true}
	if st.record == nil {
		if !l.absentIsEmpty {
			return state{}, storage.NewKeyNotFoundError(l.key, 0)
		}
		return st, runtime.SetZeroValue(st.obj)
	}
	err = l.store.join(st.record, st.from, st.obj)
	switch {
	case !l.mustBeCorrupt && err != nil:
		return state{}, storage.NewInternalError(err)
	case l.mustBeCorrupt && err != nil:
		st.obj = nil
	case l.mustBeCorrupt:
		return state{}, storage.NewInvalidObjError(l.key, "unsafe deletion is not allowed because the object is decodable from storage")
	}
	return st, nil
}

// begin uses the suggested object if there is one.
func (l loader) begin(ctx context.Context, suggestion runtime.Object) (state, error) {
	if suggestion == nil || l.mustBeCorrupt {
		return l.load(ctx)
	}
	revision, err := l.store.versioner.ObjectResourceVersion(suggestion)
	if err != nil {
		return state{}, fmt.Errorf("couldn't get resource version: %w", err)
	}
	parts, err := l.store.split(suggestion.DeepCopyObject())
	if err != nil {
		return state{}, err
	}
	st := state{obj: suggestion, record: parts.record(l.key)}
	st.record.Revision = revision
	return st, nil
}

// afterFailure returns the state to try again from, or the failure if no newer state
// could change it.
func (l loader) afterFailure(ctx context.Context, st state, failure error) (state, error) {
	if st.current {
		return state{}, failure
	}
	fresh, err := l.load(ctx)
	if err != nil {
		return state{}, err
	}
	if fresh.record.GetRevision() == st.record.GetRevision() {
		return state{}, failure
	}
	return fresh, nil
}

// GuaranteedUpdate implements storage.Interface.
func (s *Store) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, suggestion runtime.Object,
) error {
	l, err := s.newLoader(key, destination)
	if err != nil {
		return err
	}
	l.absentIsEmpty = ignoreNotFound

	st, err := l.begin(ctx, suggestion)
	for err == nil {
		var parts Parts
		if parts, err = s.tryUpdate(l.key, st, preconditions, tryUpdate); err != nil {
			st, err = l.afterFailure(ctx, st, err)
			continue
		}
		if st.record != nil && parts.equal(st.parts()) {
			if st.current {
				return s.readError(l.key, s.join(st.record, st.from, destination))
			}
			// Only the backend knows whether that is what is stored.
			st, err = l.load(ctx)
			continue
		}
		response, commitErr := s.commit(ctx, l.key, st, parts)
		if commitErr != nil {
			return commitErr
		}
		if response.GetCommitted() {
			return s.joinCommitted(l.key, parts, response, destination)
		}
		st, err = l.load(ctx)
	}
	return err
}

func (s *Store) tryUpdate(key string, st state, preconditions *storage.Preconditions, update storage.UpdateFunc) (Parts, error) {
	if err := preconditions.Check(key, st.obj); err != nil {
		return Parts{}, err
	}
	obj, _, err := update(st.obj, storage.ResponseMeta{ResourceVersion: st.record.GetRevision()})
	if err != nil {
		return Parts{}, err
	}
	return s.split(obj)
}

// Delete implements storage.Interface.
func (s *Store) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validateDeletion storage.ValidateObjectFunc, suggestion runtime.Object, opts storage.DeleteOptions,
) error {
	l, err := s.newLoader(key, out)
	if err != nil {
		return err
	}
	l.mustBeCorrupt = opts.ExpectTransformOrDecodeError &&
		utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)

	st, err := l.begin(ctx, suggestion)
	for err == nil {
		if err = preconditions.Check(l.key, st.obj); err == nil {
			err = validateDeletion(ctx, st.obj)
		}
		if err != nil {
			st, err = l.afterFailure(ctx, st, err)
			continue
		}
		response, commitErr := s.backend.Commit(ctx, &agentv1.CommitRequest{
			Key:              l.key,
			ExpectedRevision: st.record.GetRevision(),
			Change:           &agentv1.CommitRequest_Delete{Delete: &agentv1.Delete{}},
		})
		switch {
		case commitErr != nil:
			return commitErr
		case !response.GetCommitted():
			st, err = l.load(ctx)
			continue
		case l.mustBeCorrupt:
			return nil
		}
		st.record.Revision = response.GetRevision()
		return s.readError(l.key, s.join(st.record, st.from, out))
	}
	return err
}

func (s *Store) newLoader(key string, out runtime.Object) (loader, error) {
	key, err := storage.PrepareKey(s.prefix, key, false)
	if err != nil {
		return loader{}, err
	}
	v, err := conversion.EnforcePtr(out)
	if err != nil {
		return loader{}, fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	newObject := func() runtime.Object { return reflect.New(v.Type()).Interface().(runtime.Object) }
	return loader{store: s, key: key, new: newObject}, nil
}

// commit replaces a record, and only its status where nothing else has changed.
func (s *Store) commit(ctx context.Context, key string, from state, to Parts) (*agentv1.CommitResponse, error) {
	request := &agentv1.CommitRequest{Key: key, ExpectedRevision: from.record.GetRevision()}
	// A suggested state need not be what is stored, byte for byte.
	known := from.current && from.record != nil
	if known && to.equalButStatus(from.parts()) {
		request.Change = &agentv1.CommitRequest_SetStatus{SetStatus: &agentv1.SetStatus{Status: to.Status}}
	} else {
		request.Change = &agentv1.CommitRequest_Put{Put: &agentv1.Put{
			Address:  to.Address,
			Meta:     to.Meta,
			Data:     to.Data,
			Status:   to.Status,
			SameData: known && bytes.Equal(to.Data, from.record.GetData()),
		}}
	}
	response, err := s.backend.Commit(ctx, request)
	if errors.Is(err, ErrAddressInUse) {
		return nil, s.addressInUse(key, to.Address)
	}
	return response, err
}
