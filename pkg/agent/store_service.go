// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
)

const (
	// chunkBytes is about how much one message of a stream carries, and how much
	// data is in memory in the clear for it.
	chunkBytes = 1 << 20
	// replyMargin is how long before its caller's deadline a change whose
	// outcome is not known is answered, so that the answer still arrives.
	replyMargin = 250 * time.Millisecond
)

// storeService serves the Store. What needs no data is answered from
// versions; all else waits in the queue for the token.
type storeService struct {
	agentv1.UnimplementedStoreServer
	state    *state
	versions *mvcc.Store
	queue    *queue
	stopping <-chan struct{} // Closed when streams have to end.
}

// Get implements the Store service.
func (s *storeService) Get(ctx context.Context, in *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	if in.GetKey() == "" {
		return nil, invalidError("a get needs a key")
	}
	_, serial := s.state.identity()
	if in.GetWithoutData() {
		if err := s.ready(); err != nil {
			return nil, err
		}
		x, revision := s.versions.Current()
		return &agentv1.GetResponse{Record: withoutData(x.Get(in.GetKey())), Revision: revision, Serial: serial}, nil
	}
	task := &getTask{key: in.GetKey()}
	if err := s.queue.do(ctx, task, abandoned); err != nil {
		return nil, err
	}
	if task.record != nil {
		audit(ctx, "Value read", "key", in.GetKey(), "revision", task.record.Revision)
	}
	return &agentv1.GetResponse{Record: withData(task.record, task.data), Revision: task.revision, Serial: serial}, nil
}

// Commit implements the Store service.
func (s *storeService) Commit(ctx context.Context, in *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
	if in.GetKey() == "" || in.GetChange() == nil {
		return nil, invalidError("a commit needs a key and a change")
	}
	limited, cancel := withReplyMargin(ctx)
	defer cancel()
	task := &commitTask{in: in}
	if err := s.queue.do(limited, task, outcomeUnknownError); err != nil {
		return nil, err
	}
	if task.out.GetCommitted() && in.GetSetStatus() == nil {
		audit(ctx, "Value written", "key", in.GetKey(), "revision", task.out.GetRevision(), "deleted", in.GetDelete() != nil)
	}
	_, task.out.Serial = s.state.identity()
	return task.out, nil
}

// Status implements the Store service.
func (s *storeService) Status(context.Context, *agentv1.StatusRequest) (*agentv1.StatusResponse, error) {
	return statusOf(s.state, s.versions), nil
}

func statusOf(s *state, v *mvcc.Store) *agentv1.StatusResponse {
	x, _ := v.Current()
	oldest, last := v.Bounds()
	out := &agentv1.StatusResponse{Revision: last, CompactRevision: oldest, Records: int64(x.Len())}
	s.describe(out)
	return out
}

func (s *storeService) ready() error {
	condition, _ := s.state.now()
	return condition.err()
}

// withReplyMargin is ctx, ending a little earlier.
func withReplyMargin(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(replyMargin, time.Until(deadline)/4)))
}

// abandoned is the answer to a read that its caller does not wait for any more.
func abandoned(cause error) error {
	return agentv1.NewError(codes.DeadlineExceeded, agentv1.Reason_REASON_UNSPECIFIED, "the token has not answered yet: %v", cause)
}
