// SPDX-License-Identifier: Apache-2.0

package records

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// statusTimeout bounds the calls that have no context of a request, or that
// only improve a message.
const statusTimeout = 2 * time.Second

// Store implements storage.Interface for one resource. It is safe for
// concurrent use. Time-to-live is ignored: only Events have one.
type Store struct {
	backend   Backend
	layout    Layout
	resource  schema.GroupResource
	prefix    string // Begins and ends with "/".
	newFunc   func() runtime.Object
	versioner storage.APIObjectVersioner

	bookmarkInterval time.Duration

	mu           sync.Mutex
	progress     map[chan struct{}]struct{} // Of the watches that asked for progress.
	estimateSize bool
}

var _ storage.Interface = (*Store)(nil)

// New makes the store of one resource. Its keys begin with prefix, to which a
// trailing "/" is added. newFunc makes an empty object.
func New(backend Backend, layout Layout, resource schema.GroupResource, prefix string, newFunc func() runtime.Object) *Store {
	return &Store{
		backend:          backend,
		layout:           layout,
		resource:         resource,
		prefix:           strings.TrimSuffix(prefix, "/") + "/",
		newFunc:          newFunc,
		bookmarkInterval: time.Minute,
		progress:         map[chan struct{}]struct{}{},
	}
}

// Decorator lets genericregistry.Store keep its objects in a backend, which
// may be another one for each resource. It has no watch cache: every read is
// the backend's. The backend is not closed when the store is destroyed.
func Decorator(backend func(schema.GroupResource) Backend, layout func(runtime.Codec) Layout) generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
		newFunc, _ func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		resource := config.GroupResource
		store := New(backend(resource), layout(config.Codec), resource, prefix, newFunc)
		return store, func() {}, nil
	}
}

// Versioner implements storage.Interface.
func (s *Store) Versioner() storage.Versioner { return s.versioner }

// ReadinessCheck implements storage.Interface. A backend that is away must not
// take the API group out of discovery, so the store is always ready.
func (s *Store) ReadinessCheck() error { return nil }

// Get implements storage.Interface.
func (s *Store) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	key, err := storage.PrepareKey(s.prefix, key, false)
	if err != nil {
		return err
	}
	withoutData := IsWithoutData(ctx)
	response, err := s.backend.Get(ctx, &agentv1.GetRequest{Key: key, WithoutData: withoutData})
	if err != nil {
		return err
	}
	if err := s.notOlderThan(opts.ResourceVersion, response.GetRevision()); err != nil {
		return err
	}
	switch {
	case response.GetRecord() != nil:
		return s.readError(key, s.join(response.GetRecord(), Source{response.GetSerial(), withoutData}, out))
	case opts.IgnoreNotFound:
		return runtime.SetZeroValue(out)
	}
	return storage.NewKeyNotFoundError(key, 0)
}

// Create implements storage.Interface.
func (s *Store) Create(ctx context.Context, key string, obj, out runtime.Object, _ uint64) error {
	key, err := storage.PrepareKey(s.prefix, key, false)
	if err != nil {
		return err
	}
	if version, err := s.versioner.ObjectResourceVersion(obj); err == nil && version != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	parts, err := s.split(obj)
	if err != nil {
		return err
	}
	response, err := s.commit(ctx, key, state{}, parts)
	if err != nil {
		return err
	}
	if !response.GetCommitted() {
		return storage.NewKeyExistsError(key, 0)
	}
	if out == nil {
		return nil
	}
	return s.joinCommitted(key, parts, response, out)
}

// GetCurrentResourceVersion implements storage.Interface.
func (s *Store) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	current, _, err := s.backend.Revisions(ctx)
	if err == nil && current == 0 {
		err = errors.New("the store has no revision yet")
	}
	return current, err
}

// CompactRevision implements storage.Interface. It is 0 while it is unknown.
func (s *Store) CompactRevision() int64 {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	_, oldest, err := s.backend.Revisions(ctx)
	if err != nil {
		return 0
	}
	return int64(oldest)
}

// EnableResourceSizeEstimation implements storage.Interface. The store does not use
// the keys.
func (s *Store) EnableResourceSizeEstimation(keys storage.KeysFunc) error {
	if keys == nil {
		return errors.New("the function that gives the keys must not be nil")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.estimateSize {
		return errors.New("the estimation of sizes is enabled already")
	}
	s.estimateSize = true
	return nil
}

// Stats implements storage.Interface. It does not read the data of records, so the
// estimated size leaves that out.
func (s *Store) Stats(ctx context.Context) (storage.Stats, error) {
	s.mu.Lock()
	request := &agentv1.ListRequest{Prefix: s.prefix, WithoutData: true, Limit: 1}
	if s.estimateSize {
		request.Limit = 0
	}
	s.mu.Unlock()
	records, end, err := s.backend.List(ctx, request)
	if err != nil {
		return storage.Stats{}, err
	}
	stats := storage.Stats{ObjectCount: int64(len(records)) + end.GetRemaining()}
	if request.GetLimit() == 0 && len(records) > 0 {
		for _, r := range records {
			stats.EstimatedAverageObjectSizeBytes += int64(len(r.GetMeta()) + len(r.GetStatus()))
		}
		stats.EstimatedAverageObjectSizeBytes /= int64(len(records))
	}
	return stats, nil
}

// split takes an object apart for storage. It clears those fields of the object that
// are not stored.
func (s *Store) split(obj runtime.Object) (Parts, error) {
	if err := s.versioner.PrepareObjectForStorage(obj); err != nil {
		return Parts{}, fmt.Errorf("prepare object for storage: %w", err)
	}
	return s.layout.Split(obj)
}

// join puts an object together, as of the revision of its record.
func (s *Store) join(record *agentv1.Record, from Source, into runtime.Object) error {
	if _, err := conversion.EnforcePtr(into); err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	if err := s.layout.Join(record, from, into); err != nil {
		return err
	}
	return s.versioner.UpdateObject(into, record.GetRevision())
}

// joinCommitted puts together the object that a commit has stored.
func (s *Store) joinCommitted(key string, parts Parts, response *agentv1.CommitResponse, into runtime.Object) error {
	record := parts.record(key)
	record.Revision, record.DataRevision = response.GetRevision(), response.GetDataRevision()
	return s.readError(key, s.join(record, Source{Serial: response.GetSerial()}, into))
}

func (p Parts) record(key string) *agentv1.Record {
	return &agentv1.Record{Key: key, Address: p.Address, Meta: p.Meta, Data: p.Data, Status: p.Status}
}

// notOlderThan checks that what was read at a revision is recent enough.
func (s *Store) notOlderThan(resourceVersion string, revision uint64) error {
	minimum, err := s.versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	if minimum > revision {
		return storage.NewTooLargeResourceVersionError(minimum, revision, 0)
	}
	return nil
}

// futureRevision is the error of a revision that has not happened yet. It names the
// current one if that can be read.
func (s *Store) futureRevision(ctx context.Context, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	current, _, err := s.backend.Revisions(ctx)
	if err != nil {
		current = 0
	}
	return storage.NewTooLargeResourceVersionError(revision, current, 0)
}

// addressInUse is the error of a commit that lost the race for an address.
func (s *Store) addressInUse(key, address string) error {
	kind := reflect.TypeOf(s.newFunc()).Elem().Name()
	name := key[strings.LastIndexByte(key, '/')+1:]
	return apierrors.NewInvalid(schema.GroupKind{Group: s.resource.Group, Kind: kind}, name,
		field.ErrorList{field.Duplicate(s.layout.AddressField(), address)})
}
