// SPDX-License-Identifier: Apache-2.0

// Package records owns Kubernetes' storage semantics: it implements
// storage.Interface over any store of revisioned records. It never knows where
// records lie, never looks into objects itself, and caches nothing.
package records

import (
	"context"
	"errors"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// The errors of a Backend that the Store turns into API errors. All other errors
// reach the client as they are, so they should be API statuses.
var (
	// ErrExpired: the history does not reach back to the requested revision.
	ErrExpired = errors.New("the revision is too old")
	// ErrFutureRevision: the requested revision has not happened yet.
	ErrFutureRevision = errors.New("the revision has not happened yet")
	// ErrAddressInUse: another record has the address. Nothing was changed.
	ErrAddressInUse = errors.New("the address is in use")
)

// Backend is a store of revisioned records. One counter, the revision, orders
// all its changes. The meaning of each message is that of the service Store in
// pkg/agent/api/v1/agent.proto.
type Backend interface {
	// Get reads one record. Only a backend that knows its whole store may answer
	// without a record.
	Get(context.Context, *agentv1.GetRequest) (*agentv1.GetResponse, error)
	// List reads records in key order: all of them, or an error.
	List(context.Context, *agentv1.ListRequest) ([]*agentv1.Record, *agentv1.ListEnd, error)
	// Commit changes one record if it is still at the expected revision.
	Commit(context.Context, *agentv1.CommitRequest) (*agentv1.CommitResponse, error)
	// Watch starts to follow changes. It returns the first message, which has no
	// events, and a function that waits for the next one until the context ends.
	Watch(context.Context, *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error)
	// Revisions returns the revision of the store, and the oldest one that List and
	// Watch can still start from; 0 if that is unknown.
	Revisions(context.Context) (current, oldest uint64, err error)
}
