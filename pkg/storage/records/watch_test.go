// SPDX-License-Identifier: Apache-2.0

package records_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

var (
	yes, no = true, false
	// everything is a watch of all Pods as informers make it.
	everything = storage.ListOptions{
		Recursive:         true,
		SendInitialEvents: &yes,
		Predicate:         storage.SelectionPredicate{AllowWatchBookmarks: true},
	}
)

func begin(t *testing.T, store *records.Store, opts storage.ListOptions) watch.Interface {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Minute)
	t.Cleanup(cancel)
	w, err := store.Watch(ctx, "/pods/", opts)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// rest reads a watch to its end.
func rest(w watch.Interface) (events []watch.Event) {
	for e := range w.ResultChan() {
		events = append(events, e)
	}
	return events
}

func resourceVersion(t *testing.T, e watch.Event) uint64 {
	t.Helper()
	m, err := meta.Accessor(e.Object)
	if err != nil {
		t.Fatalf("%v: %v", e, err)
	}
	v, err := strconv.ParseUint(m.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAWatchThatBreaksSaysSoOnce(t *testing.T) {
	t.Parallel()
	away := apierrors.NewServiceUnavailable("the token is away")
	for name, c := range map[string]struct {
		broken error
		wanted func(error) bool
	}{
		"away":    {away, apierrors.IsServiceUnavailable},
		"behind":  {records.ErrExpired, apierrors.IsResourceExpired},
		"unknown": {errors.New("what?"), apierrors.IsInternalError},
	} {
		m := newMemory()
		store := newStore(m)
		w := begin(t, store, everything)
		if e := <-w.ResultChan(); e.Type != watch.Bookmark {
			t.Fatalf("%s: want the end of the initial events, got %v", name, e)
		}
		m.mu.Lock()
		m.watchErr = c.broken
		m.mu.Unlock()
		update(t, store, "/pods/ns/a", func(p *example.Pod) { p.Name = "a" })
		events := rest(w)
		if len(events) != 1 || events[0].Type != watch.Error || !c.wanted(apierrors.FromObject(events[0].Object)) {
			t.Errorf("%s: %v", name, events)
		}
	}
}

// impatient ends its streams a little before the deadline, as gRPC may do.
type impatient struct{ records.Backend }

func (b impatient) Watch(ctx context.Context, in *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-50*time.Millisecond))
		context.AfterFunc(ctx, cancel)
	}
	return b.Backend.Watch(ctx, in)
}

func TestAWatchEndsAtItsDeadlineWithoutAnError(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	w, err := newStore(impatient{newMemory()}).Watch(ctx, "/pods/", everything)
	if err != nil {
		t.Fatal(err)
	}
	if events := rest(w); len(events) != 1 || events[0].Type != watch.Bookmark {
		t.Errorf("want the end of the initial events and nothing else, got %v", events)
	}
}

// TestNoBookmarkAfterAPart shows that a client never takes a part for the whole.
func TestNoBookmarkAfterAPart(t *testing.T) {
	t.Parallel()
	m := newMemory()
	store := newStore(m)
	update(t, store, "/pods/ns/a", func(p *example.Pod) { p.Name = "a" })
	m.listErr = apierrors.NewServiceUnavailable("the token is away")
	events := rest(begin(t, store, everything))
	if len(events) != 1 || events[0].Type != watch.Error {
		t.Errorf("list that fails: %v", events)
	}

	stale := newStore(staleList{m})
	m.listErr = nil
	events = rest(begin(t, stale, everything))
	if len(events) != 1 || !storage.IsTooLargeResourceVersion(apierrors.FromObject(events[0].Object)) {
		t.Errorf("list that is older than the watch: %v", events)
	}
}

// staleList is a backend whose lists are of another, older copy than its watches.
type staleList struct{ *memoryBackend }

func (s staleList) List(ctx context.Context, in *agentv1.ListRequest) ([]*agentv1.Record, *agentv1.ListEnd, error) {
	list, end, err := s.memoryBackend.List(ctx, in)
	end.Revision--
	return list, end, err
}

// TestNothingIsMissedBetweenListAndWatch changes the store while the initial
// list is read.
func TestNothingIsMissedBetweenListAndWatch(t *testing.T) {
	t.Parallel()
	m := newMemory()
	store := newStore(writingList{m, func(name string) {
		update(t, newStore(m), "/pods/ns/"+name, func(p *example.Pod) { p.Name = name })
	}})
	w := begin(t, store, everything)
	for i, want := range []struct {
		kind watch.EventType
		name string
	}{{watch.Added, "before"}, {watch.Bookmark, ""}, {watch.Added, "after"}} {
		e := <-w.ResultChan()
		pod, ok := e.Object.(*example.Pod)
		if e.Type != want.kind || !ok || pod.Name != want.name {
			t.Fatalf("event %d: %v, want %v", i, e, want)
		}
	}
	w.Stop()
	if events := rest(w); len(events) != 0 {
		t.Errorf("too many: %v", events)
	}
}

// writingList writes before and after each list.
type writingList struct {
	*memoryBackend
	write func(name string)
}

func (l writingList) List(ctx context.Context, in *agentv1.ListRequest) ([]*agentv1.Record, *agentv1.ListEnd, error) {
	l.write("before")
	defer l.write("after")
	return l.memoryBackend.List(ctx, in)
}

func TestBookmarks(t *testing.T) {
	t.Parallel()
	m := newMemory()
	store := newStore(m)
	store.SetBookmarkInterval(10 * time.Millisecond)
	opts := everything
	opts.SendInitialEvents = &no
	w := begin(t, store, opts)
	silent := opts
	silent.Predicate.AllowWatchBookmarks = false
	without := begin(t, store, silent)

	// Of other resources too: a client that sees few changes must not fall out of the history.
	m.mu.Lock()
	m.append(nil, &agentv1.Record{Key: "/other"})
	last := m.revision()
	m.mu.Unlock()
	for reached := uint64(0); reached < last; {
		e := <-w.ResultChan()
		if e.Type != watch.Bookmark {
			t.Fatalf("want a bookmark, got %v", e)
		}
		reached = resourceVersion(t, e)
	}
	without.Stop()
	if events := rest(without); len(events) != 0 {
		t.Errorf("a client that did not ask for bookmarks got %v", events)
	}
}

func TestWatchOfTheFuture(t *testing.T) {
	t.Parallel()
	store := newStore(newMemory())
	_, err := store.Watch(t.Context(), "/pods/", storage.ListOptions{Recursive: true, ResourceVersion: "99", Predicate: storage.Everything})
	if !storage.IsTooLargeResourceVersion(err) {
		t.Errorf("want an error that says so, got %v", err)
	}
}

// TestAChangeOfNoRecord is of a backend that breaks its word.
func TestAChangeOfNoRecord(t *testing.T) {
	t.Parallel()
	m := newMemory()
	opts := everything
	opts.SendInitialEvents = &no
	w := begin(t, newStore(nothing{m}), opts)
	m.mu.Lock()
	m.append(nil, &agentv1.Record{Key: "/pods/ns/a"})
	m.mu.Unlock()
	if events := rest(w); len(events) != 1 || events[0].Type != watch.Error {
		t.Errorf("%v", events)
	}
}

type nothing struct{ *memoryBackend }

func (n nothing) Watch(ctx context.Context, in *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error) {
	first, next, err := n.memoryBackend.Watch(ctx, in)
	return first, func() (*agentv1.WatchResponse, error) {
		response, err := next()
		for i, e := range response.GetEvents() {
			response.Events[i] = &agentv1.Event{Type: agentv1.Event_TYPE_DELETE, Revision: e.GetRevision()}
		}
		return response, err
	}, err
}
