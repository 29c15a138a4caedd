// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"
	"sync"
)

// request is work for the one goroutine that owns the token. Whoever asked may
// give up while it waits; once it was begun, it is carried out.
type request struct {
	ctx  context.Context
	task any // *getTask, *commitTask or callTask.
	done chan error
	// repeats counts how often the request was put back.
	repeats int
}

// queue holds the requests that wait for the token, in order of arrival. While
// there is no token to work on it is shut, and every request gets the reason
// at once.
type queue struct {
	mu      sync.Mutex
	waiting []*request
	shut    error
	arrived chan struct{} // Full when something may wait.
}

func newQueue(reason error) *queue {
	return &queue{shut: reason, arrived: make(chan struct{}, 1)}
}

func (q *queue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shut = nil
}

// close answers all that wait, and all that will come, with a reason.
func (q *queue) close(reason error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shut = reason
	for _, r := range q.waiting {
		r.done <- reason
	}
	q.waiting = nil
}

// do has a task carried out. An error of a context that ended meanwhile says
// whether the task was begun: notBegunError if not, else begun's answer.
func (q *queue) do(ctx context.Context, task any, begun func(error) error) error {
	r := &request{ctx: ctx, task: task, done: make(chan error, 1)}
	if err := q.push(r); err != nil {
		return err
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		if q.abandon(r) {
			return notBegunError(ctx)
		}
		select {
		case err := <-r.done: // Answered meanwhile.
			return err
		default:
			return begun(context.Cause(ctx))
		}
	}
}

func (q *queue) push(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.shut != nil {
		return q.shut
	}
	q.waiting = append(q.waiting, r)
	select {
	case q.arrived <- struct{}{}:
	default:
	}
	return nil
}

// begin takes a request out of the queue to carry it out; false if its caller
// has given up.
func (q *queue) begin(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.take(r) {
		return false
	}
	if r.ctx.Err() != nil {
		r.done <- notBegunError(r.ctx)
		return false
	}
	return true
}

// putBack gives requests that were begun, and came to nothing, their place before all
// others again.
func (q *queue) putBack(requests ...*request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.shut != nil {
		for _, r := range requests {
			r.done <- q.shut
		}
		return
	}
	q.waiting = append(slices.Clone(requests), q.waiting...)
	select {
	case q.arrived <- struct{}{}:
	default:
	}
}

// abandon takes a request out of the queue; false if it was begun or answered.
func (q *queue) abandon(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.take(r)
}

func (q *queue) take(r *request) bool {
	i := slices.Index(q.waiting, r)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// requests gives those that wait, without beginning them.
func (q *queue) requests() []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.waiting)
}
