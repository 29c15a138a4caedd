// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/storage/records"
)

// backend is a store of records that counts what is asked of it.
type backend struct {
	mu       sync.Mutex
	records  map[string]*agentv1.Record
	revision uint64
	// valueReads are the gets, lists and watches that asked for data.
	valueReads int
	commits    []*agentv1.CommitRequest
	events     chan *agentv1.Event // Of the one watch.
}

func newBackend() *backend {
	return &backend{records: map[string]*agentv1.Record{}, revision: 10, events: make(chan *agentv1.Event, 10)}
}

// GetRESTOptions makes the backend the storage of every resource.
func (b *backend) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	codec := serializer.NewCodecFactory(newScheme()).LegacyCodec(v1alpha1.SchemeGroupVersion)
	return generic.RESTOptions{
		StorageConfig:           &storagebackend.ConfigForResource{GroupResource: resource, Config: storagebackend.Config{Codec: codec}},
		Decorator:               records.Decorator(func(schema.GroupResource) records.Backend { return b }, NewLayout),
		ResourcePrefix:          resource.String(),
		DeleteCollectionWorkers: 1,
		EnableGarbageCollection: true,
	}, nil
}

// read gives a record as it is read.
func (b *backend) read(r *agentv1.Record, withoutData bool) *agentv1.Record {
	if r == nil {
		return nil
	}
	r = proto.CloneOf(r)
	if withoutData {
		r.Data = nil
	}
	return r
}

func (b *backend) count(withoutData bool) {
	if !withoutData {
		b.valueReads++
	}
}

func (b *backend) Get(_ context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(in.GetWithoutData())
	return &agentv1.GetResponse{Record: b.read(b.records[in.GetKey()], in.GetWithoutData()), Revision: b.revision}, nil
}

func (b *backend) List(_ context.Context, in *agentv1.ListRequest) ([]*agentv1.Record, *agentv1.ListEnd, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(in.GetWithoutData())
	var list []*agentv1.Record
	for _, key := range slices.Sorted(maps.Keys(b.records)) {
		if strings.HasPrefix(key, in.GetPrefix()) {
			list = append(list, b.read(b.records[key], in.GetWithoutData()))
		}
	}
	return list, &agentv1.ListEnd{Revision: b.revision}, nil
}

func (b *backend) Commit(_ context.Context, in *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	previous := b.records[in.GetKey()]
	if previous.GetRevision() != in.GetExpectedRevision() {
		return &agentv1.CommitResponse{Revision: b.revision}, nil
	}
	b.commits = append(b.commits, proto.CloneOf(in))
	b.revision++
	response := &agentv1.CommitResponse{Committed: true, Revision: b.revision, DataRevision: b.revision}
	record := &agentv1.Record{Key: in.GetKey()}
	switch {
	case in.GetDelete() != nil:
		delete(b.records, in.GetKey())
		return response, nil
	case in.GetPut() != nil:
		put := in.GetPut()
		record.Address, record.Meta, record.Data, record.Status = put.GetAddress(), put.GetMeta(), put.GetData(), put.GetStatus()
		if put.GetSameData() {
			response.DataRevision = previous.GetDataRevision()
		}
	case in.GetSetStatus() != nil:
		record = proto.CloneOf(previous)
		record.Status = in.GetSetStatus().GetStatus()
		response.DataRevision = previous.GetDataRevision()
	}
	record.Revision, record.DataRevision = b.revision, response.GetDataRevision()
	b.records[in.GetKey()] = record
	return response, nil
}

func (b *backend) Watch(ctx context.Context, in *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(in.GetWithoutData())
	next := func() (*agentv1.WatchResponse, error) {
		select {
		case e := <-b.events:
			e.Record = b.read(e.GetRecord(), in.GetWithoutData())
			return &agentv1.WatchResponse{Events: []*agentv1.Event{e}, Revision: e.GetRevision()}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &agentv1.WatchResponse{Revision: b.revision}, next, nil
}

func (b *backend) Revisions(context.Context) (current, oldest uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.revision, 0, nil
}

// reset forgets what was asked.
func (b *backend) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.valueReads, b.commits = 0, nil
}
