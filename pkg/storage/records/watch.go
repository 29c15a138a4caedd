// SPDX-License-Identifier: Apache-2.0

package records

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

const (
	// resultBuffer is how many events wait for a slow reader, as in etcd3. Then
	// it is the backend that ends the watch of a reader that falls behind.
	resultBuffer = 100
	// lastBookmark is how long before its deadline a watch gets a bookmark to
	// resume from (KEP-956).
	lastBookmark = 2 * time.Second
)

// watcher is one watch: a stream of the backend, turned into events.
type watcher struct {
	store     *Store
	key       string
	recursive bool
	predicate storage.SelectionPredicate

	initialEvents   bool   // Send what is there first,
	initialBookmark bool   // and a bookmark after it,
	minimum         uint64 // if it is of this revision at least.
	bookmarks       bool

	next      func() (*agentv1.WatchResponse, error)
	endStream context.CancelFunc
	position  uint64 // Every change up to it has been sent.
	from      Source
	progress  chan struct{} // Requests a bookmark; nil when ProgressNotify is off.

	result chan watch.Event
	cancel context.CancelFunc
}

// Watch implements storage.Interface. A backend that is away is an error at
// once; all later errors, and a revision that is too old, end the stream with
// one ERROR event.
func (s *Store) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	key, err := storage.PrepareKey(s.prefix, key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	revision, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	w := &watcher{
		store:     s,
		key:       key,
		recursive: opts.Recursive,
		predicate: opts.Predicate,
		bookmarks: opts.Predicate.AllowWatchBookmarks || opts.ProgressNotify,
		result:    make(chan watch.Event, resultBuffer),
	}
	withoutData := IsWithoutData(ctx)
	request := &agentv1.WatchRequest{Prefix: key, WithoutData: withoutData}
	switch {
	case opts.SendInitialEvents != nil && *opts.SendInitialEvents:
		w.initialEvents, w.initialBookmark, w.minimum = true, opts.Predicate.AllowWatchBookmarks, revision
	case opts.SendInitialEvents == nil && revision == 0:
		w.initialEvents = true
	default:
		request.Revision = revision
	}
	if opts.ProgressNotify {
		w.progress = make(chan struct{}, 1)
	}

	ctx, w.cancel = context.WithCancel(ctx)
	// The backend does not see the deadline: it would end the stream with an error
	// before the watch ends in the regular way.
	var stream context.Context
	stream, w.endStream = context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, w.endStream)
	// The stream begins before the initial list is read, so nothing is missed between them.
	first, next, err := s.backend.Watch(stream, request)
	switch {
	case errors.Is(err, ErrFutureRevision):
		err = s.futureRevision(ctx, revision)
		w.cancel()
		return nil, err
	case err != nil && ctx.Err() == nil && !errors.Is(err, ErrExpired):
		w.cancel()
		return nil, err
	}
	w.next, w.position = next, first.GetRevision()
	w.from = Source{first.GetSerial(), withoutData}
	go w.run(ctx, stream, err)
	return w, nil
}

// RequestWatchProgress implements storage.Interface.
func (s *Store) RequestWatchProgress(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for progress := range s.progress {
		select {
		case progress <- struct{}{}:
		default: // One is requested already.
		}
	}
	return nil
}

// Stop implements watch.Interface.
func (w *watcher) Stop() { w.cancel() }

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.result }

func (w *watcher) run(ctx, stream context.Context, err error) {
	defer close(w.result)
	defer w.cancel()
	if err == nil {
		err = w.follow(ctx, stream)
	}
	if ctx.Err() == nil {
		// A reader that has given up by now needs no error either.
		_ = w.send(ctx, watch.Event{Type: watch.Error, Object: errorStatus(err)})
	}
}

// follow sends events until the context or the stream ends.
func (w *watcher) follow(ctx, stream context.Context) error {
	if w.initialEvents {
		if err := w.sendInitialEvents(ctx); err != nil {
			return err
		}
	}
	utilflowcontrol.WatchInitialized(ctx)

	if w.progress != nil {
		w.store.mu.Lock()
		w.store.progress[w.progress] = struct{}{}
		w.store.mu.Unlock()
		defer func() {
			w.store.mu.Lock()
			delete(w.store.progress, w.progress)
			w.store.mu.Unlock()
		}()
	}
	responses, broken := make(chan *agentv1.WatchResponse), make(chan error, 1)
	var receiver sync.WaitGroup
	receiver.Go(func() { broken <- w.receive(stream, responses) })
	defer receiver.Wait()
	defer w.endStream()

	timer := time.NewTimer(w.untilBookmark(ctx))
	defer timer.Stop()
	for {
		var err error
		select {
		case response := <-responses:
			err = w.sendEvents(ctx, response)
		case <-timer.C:
			if w.bookmarks {
				err = w.sendBookmark(ctx, false)
			}
			timer.Reset(w.untilBookmark(ctx))
		case <-w.progress:
			err = w.sendBookmark(ctx, false)
		case err = <-broken:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// receive passes on the messages of the stream until it breaks.
func (w *watcher) receive(stream context.Context, responses chan<- *agentv1.WatchResponse) error {
	for {
		response, err := w.next()
		if err != nil {
			return err
		}
		select {
		case responses <- response:
		case <-stream.Done():
			return stream.Err()
		}
	}
}

func (w *watcher) sendInitialEvents(ctx context.Context) error {
	p, err := w.store.readPage(ctx, pageRequest{key: w.key, recursive: w.recursive, withoutData: w.from.WithoutData})
	if err != nil {
		return err
	}
	if minimum := max(w.minimum, w.position); p.revision < minimum {
		return storage.NewTooLargeResourceVersionError(minimum, p.revision, 1)
	}
	for _, r := range p.records {
		obj, err := w.object(r, r.GetRevision(), p.from)
		if err != nil {
			return err
		}
		if matches(w.predicate, obj) {
			if err := w.send(ctx, watch.Event{Type: watch.Added, Object: obj}); err != nil {
				return err
			}
		}
	}
	w.position = p.revision
	if w.initialBookmark {
		return w.sendBookmark(ctx, true)
	}
	return nil
}

func (w *watcher) sendEvents(ctx context.Context, response *agentv1.WatchResponse) error {
	if serial := response.GetSerial(); serial != "" {
		w.from.Serial = serial
	}
	for _, e := range response.GetEvents() {
		if e.GetRevision() <= w.position || !w.recursive && keyOf(e) != w.key {
			continue
		}
		event, err := w.event(e)
		if err != nil {
			return err
		}
		if event != nil {
			if err := w.send(ctx, *event); err != nil {
				return err
			}
		}
		w.position = e.GetRevision()
	}
	w.position = max(w.position, response.GetRevision())
	return nil
}

func keyOf(e *agentv1.Event) string {
	if r := e.GetRecord(); r != nil {
		return r.GetKey()
	}
	return e.GetPrevious().GetKey()
}

// event turns a change of a record into an event about the selected objects; nil if
// the change is not about them. An object that is not selected any more becomes a
// DELETED event with the revision of the change.
func (w *watcher) event(e *agentv1.Event) (*watch.Event, error) {
	if e.GetRecord() == nil && e.GetPrevious() == nil {
		return nil, errors.New("the store sent a change of no record")
	}
	var current, previous runtime.Object
	var err error
	if r := e.GetRecord(); r != nil {
		if current, err = w.object(r, e.GetRevision(), w.from); err != nil {
			return nil, err
		}
	}
	if r := e.GetPrevious(); r != nil && (current == nil || !w.predicate.Empty()) {
		previous, err = w.object(r, e.GetRevision(), w.from)
		switch {
		case err == nil:
		case current == nil && isCorrupt(err):
			return nil, corruptDeleted(err)
		default:
			return nil, err
		}
	}

	is := current != nil && matches(w.predicate, current)
	was := e.GetPrevious() != nil
	if previous != nil {
		was = matches(w.predicate, previous)
	}
	switch {
	case is && was:
		return &watch.Event{Type: watch.Modified, Object: current}, nil
	case is:
		return &watch.Event{Type: watch.Added, Object: current}, nil
	case was:
		return &watch.Event{Type: watch.Deleted, Object: previous}, nil
	}
	return nil, nil
}

func (w *watcher) object(r *agentv1.Record, revision uint64, from Source) (runtime.Object, error) {
	obj := w.store.newFunc()
	if err := w.store.join(r, from, obj); err != nil {
		return nil, storage.NewInternalError(err)
	}
	return obj, w.store.versioner.UpdateObject(obj, revision)
}

// sendBookmark tells the reader up to which revision it has seen all changes.
func (w *watcher) sendBookmark(ctx context.Context, initialEventsEnd bool) error {
	obj := w.store.newFunc()
	if err := w.store.versioner.UpdateObject(obj, w.position); err != nil {
		return err
	}
	if initialEventsEnd {
		if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
			return err
		}
	}
	return w.send(ctx, watch.Event{Type: watch.Bookmark, Object: obj})
}

// untilBookmark is the time to the next bookmark: the last one comes shortly
// before the deadline.
func (w *watcher) untilBookmark(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		if last := time.Until(deadline) - lastBookmark; 0 < last && last < w.store.bookmarkInterval {
			return last
		}
	}
	return w.store.bookmarkInterval
}

// send waits until the reader has room, or has given up.
func (w *watcher) send(ctx context.Context, event watch.Event) error {
	select {
	case w.result <- event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func corruptDeleted(err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusInternalServerError,
		Reason:  metav1.StatusReasonStoreReadError,
		Message: fmt.Sprintf("saw a DELETED event, but object data is corrupt - %v", err),
	}}
}

// errorStatus is the object of an ERROR event.
func errorStatus(err error) *metav1.Status {
	if errors.Is(err, ErrExpired) {
		err = apierrors.NewResourceExpired("The resourceVersion for the provided watch is too old.")
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
	}
	s := status.Status()
	return &s
}
