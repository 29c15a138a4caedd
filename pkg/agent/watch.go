// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
)

// watchBatch is how many events a watch takes from the history at a time.
const watchBatch = 256

// Watch implements the Store service. It reads the history by position: a slow
// watcher blocks nobody and buffers nothing, and expires when the history has
// moved past its position. While the token is away it stays open and silent.
func (s *storeService) Watch(in *agentv1.WatchRequest, stream grpc.ServerStreamingServer[agentv1.WatchResponse]) error {
	if err := s.ready(); err != nil {
		return err
	}
	w := watcher{storeService: s, in: in, stream: stream, position: in.GetRevision()}
	if w.position == 0 {
		_, w.position = s.versions.Current()
	}
	if _, _, err := s.versions.After(w.position, in.GetPrefix(), 0); err != nil {
		return requestError(err)
	}
	if !in.GetWithoutData() {
		audit(stream.Context(), "Values watched", "prefix", in.GetPrefix(), "revision", w.position)
	}
	return w.run()
}

type watcher struct {
	*storeService
	in       *agentv1.WatchRequest
	stream   grpc.ServerStreamingServer[agentv1.WatchResponse]
	position uint64
}

func (w *watcher) run() error {
	if err := w.send(nil, w.position); err != nil {
		return err
	}
	for {
		changed := w.versions.Changed() // Before reading, to miss none.
		events, upTo, err := w.versions.After(w.position, w.in.GetPrefix(), watchBatch)
		if err != nil {
			return requestError(err)
		}
		if upTo > w.position {
			if err := w.pass(events, upTo); err != nil {
				return err
			}
			continue
		}
		select {
		case <-changed:
		case <-w.stopping:
			return stopping.err()
		case <-w.stream.Context().Done():
			return w.stream.Context().Err()
		}
	}
}

// pass sends events, in messages of bounded size, and moves the position past
// them, and past those outside of the prefix.
func (w *watcher) pass(events []mvcc.Event, upTo uint64) error {
	var message []*agentv1.Event
	size := 0
	for _, e := range events {
		after, err := w.record(e.After)
		if err != nil {
			return err
		}
		before, err := w.record(e.Before)
		if err != nil {
			return err
		}
		if next := protoSize(after) + protoSize(before); size > 0 && size+next > chunkBytes {
			if err := w.send(message, message[len(message)-1].GetRevision()); err != nil {
				return err
			}
			message, size = nil, 0
		}
		kind := agentv1.Event_TYPE_PUT
		if after == nil {
			kind = agentv1.Event_TYPE_DELETE
		}
		message = append(message, &agentv1.Event{Type: kind, Revision: e.Revision, Record: after, Previous: before})
		size += protoSize(after) + protoSize(before)
	}
	return w.send(message, upTo)
}

func (w *watcher) send(events []*agentv1.Event, position uint64) error {
	_, serial := w.state.identity()
	w.position = position
	return w.stream.Send(&agentv1.WatchResponse{Events: events, Revision: position, Serial: serial})
}

// record gives a record of an event as the watcher wants it.
func (w *watcher) record(r *mvcc.Record) (*agentv1.Record, error) {
	if r == nil || w.in.GetWithoutData() {
		return withoutData(r), nil
	}
	for {
		_, changed := w.state.now()
		data, err := w.eventData(w.stream.Context(), r.Version())
		switch {
		case err == nil:
			return withData(r, data), nil
		case status.Code(err) != codes.Unavailable:
			return nil, err
		}
		// Silent while the token is away. The history decides afterwards whether
		// the watch can go on.
		select {
		case <-changed:
		case <-w.stopping:
			return nil, stopping.err()
		case <-w.stream.Context().Done():
			return nil, w.stream.Context().Err()
		}
	}
}

// eventData gives data that an event speaks of: from the history, or, if only
// the status has changed since the agent started, from the token. Then the
// history takes it too, for the other watchers.
func (s *storeService) eventData(ctx context.Context, v mvcc.Version) ([]byte, error) {
	if data, err := s.versions.Data(v); err == nil {
		return data, nil
	}
	var data []byte
	err := s.queue.do(ctx, callTask(func(w *worker) (err error) {
		if data, err = w.data(v); err == nil {
			w.versions.KeepData(v, w.versions.Seal(v, data))
		}
		return err
	}), abandoned)
	if err != nil {
		return nil, err
	}
	return data, nil
}

func protoSize(r *agentv1.Record) int {
	return len(r.GetKey()) + len(r.GetAddress()) + len(r.GetMeta()) + len(r.GetStatus()) + len(r.GetData())
}
