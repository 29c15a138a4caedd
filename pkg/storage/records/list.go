// SPDX-License-Identifier: Apache-2.0

package records

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// maxPage bounds how far a page grows beyond the limit of the request while
// few records match its selector, as in etcd3.
const maxPage = 10000

const (
	expiredMessage      = "The resourceVersion for the provided list is too old."
	inconsistentMessage = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list."
)

// page is a part of a list, all as of one revision.
type page struct {
	records   []*agentv1.Record
	revision  uint64
	remaining int64
	from      Source
}

// GetList implements storage.Interface. Its error leaves the list unusable.
func (s *Store) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	key, err := storage.PrepareKey(s.prefix, key, opts.Recursive)
	if err != nil {
		return err
	}
	items, err := itemsOf(listObj)
	if err != nil {
		return err
	}
	exact, startKey, err := storage.ValidateListOptions(key, s.versioner, opts)
	if err != nil {
		return err
	}

	predicate := opts.Predicate
	revision, limit := uint64(exact), max(predicate.Limit, 0) // A negative one is none, as in etcd3.
	withoutData := IsWithoutData(ctx)
	failed := listErrors{resource: s.resource}
	var lastKey string
	var count int64
	var more bool
	for {
		p, err := s.readPage(ctx, pageRequest{key, opts.Recursive, startKey, revision, limit, withoutData})
		if err != nil {
			return s.listError(ctx, err, key, startKey, revision, len(predicate.Continue) > 0)
		}
		if revision == 0 {
			if err := s.notOlderThan(opts.ResourceVersion, p.revision); err != nil {
				return err
			}
		} else if p.revision != revision {
			return fmt.Errorf("the store answered with revision %d to a list of revision %d", p.revision, revision)
		}
		revision = p.revision

		taken, err := s.appendMatching(items, p, predicate, &failed)
		if err != nil {
			return err
		}
		if taken > 0 {
			lastKey = p.records[taken-1].GetKey()
		}
		count = int64(len(p.records)) + p.remaining
		more = count > int64(taken)
		full := predicate.Limit > 0 && int64(items.Len()) >= predicate.Limit
		if full || p.remaining == 0 {
			break
		}
		if taken == 0 {
			return errors.New("the store gave no records, but said that there are more")
		}
		startKey = lastKey + "\x00"
		limit = min(2*limit, maxPage)
	}

	if err := failed.err(); err != nil {
		return err
	}
	token, remaining, err := storage.PrepareContinueToken(lastKey, key, int64(revision), count, more, opts)
	if err != nil {
		return err
	}
	return s.versioner.UpdateList(listObj, revision, token, remaining)
}

// pageRequest asks for a page of the records below a prefix, or for the one record of
// a key.
type pageRequest struct {
	key         string // Or prefix, if recursive.
	recursive   bool
	startKey    string
	revision    uint64 // 0: now.
	limit       int64  // 0: none.
	withoutData bool
}

func (s *Store) readPage(ctx context.Context, r pageRequest) (page, error) {
	if !r.recursive && r.revision == 0 {
		response, err := s.backend.Get(ctx, &agentv1.GetRequest{Key: r.key, WithoutData: r.withoutData})
		if err != nil {
			return page{}, err
		}
		p := page{revision: response.GetRevision(), from: Source{response.GetSerial(), r.withoutData}}
		if record := response.GetRecord(); record != nil {
			p.records = append(p.records, record)
		}
		return p, nil
	}
	if !r.recursive {
		r.limit = 1 // The key itself is the first one of those that begin with it.
	}
	records, end, err := s.backend.List(ctx, &agentv1.ListRequest{
		Prefix: r.key, StartKey: r.startKey, Revision: r.revision, Limit: r.limit, WithoutData: r.withoutData,
	})
	if err != nil {
		return page{}, err
	}
	p := page{records: records, revision: end.GetRevision(), remaining: end.GetRemaining(), from: Source{end.GetSerial(), r.withoutData}}
	if !r.recursive {
		p.remaining = 0
		if len(records) > 0 && records[0].GetKey() != r.key {
			p.records = nil
		}
	}
	return p, nil
}

// appendMatching appends the objects that the predicate selects, until its
// limit is reached. It returns how many records it has read.
func (s *Store) appendMatching(items reflect.Value, p page, predicate storage.SelectionPredicate, failed *listErrors) (int, error) {
	for i, r := range p.records {
		if predicate.Limit > 0 && int64(items.Len()) >= predicate.Limit {
			return i, nil
		}
		obj := reflect.New(items.Type().Elem())
		if err := s.join(r, p.from, obj.Interface().(runtime.Object)); err != nil {
			if err := failed.add(r.GetKey(), err); err != nil {
				return i, err
			}
			continue
		}
		if matches(predicate, obj.Interface().(runtime.Object)) {
			items.Set(reflect.Append(items, obj.Elem()))
		}
	}
	return len(p.records), nil
}

// matches reports whether the predicate selects an object. An object whose attributes
// cannot be read is not selected, as in etcd3.
func matches(predicate storage.SelectionPredicate, obj runtime.Object) bool {
	matched, err := predicate.Matches(obj)
	return err == nil && matched
}

// listError is the API error of a list. A client that continues a list whose revision
// has expired may go on with an inconsistent one.
func (s *Store) listError(ctx context.Context, err error, prefix, startKey string, revision uint64, continued bool) error {
	switch {
	case errors.Is(err, ErrFutureRevision):
		return s.futureRevision(ctx, revision)
	case !errors.Is(err, ErrExpired):
		return err
	case !continued:
		return apierrors.NewResourceExpired(expiredMessage)
	}
	token, err := storage.EncodeContinue(startKey, prefix, -1)
	if err != nil {
		return err
	}
	expired := apierrors.NewResourceExpired(inconsistentMessage)
	expired.ErrStatus.Continue = token
	return expired
}

// itemsOf returns the items of a list, empty but never nil.
func itemsOf(list runtime.Object) (reflect.Value, error) {
	pointer, err := meta.GetItemsPtr(list)
	if err != nil {
		return reflect.Value{}, err
	}
	items, err := conversion.EnforcePtr(pointer)
	if err == nil && items.Kind() != reflect.Slice {
		err = fmt.Errorf("its items are a %s", items.Kind())
	}
	if err != nil {
		return reflect.Value{}, fmt.Errorf("%T is not a list: %w", list, err)
	}
	items.Set(reflect.MakeSlice(items.Type(), 0, 0))
	return items, nil
}
