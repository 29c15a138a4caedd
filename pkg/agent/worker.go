// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"time"

	"j5t.io/hsm/pkg/agent/mvcc"
)

const (
	// probeInterval is how often an idle token is asked whether it is still there.
	probeInterval = 400 * time.Millisecond
	// maxRepeats is how often a request is put back under which the session was lost. Each
	// time costs a login, and there are tokens on which one object ends every session.
	maxRepeats = 3
)

// worker carries out requests, one after the other, on the one goroutine that
// owns the token. Reads of one record that wait share one token read; writes
// that wait share one commit. It never joins what was begun before: a read
// that a write has overtaken would serve the past.
type worker struct {
	connection   *connection
	versions     *mvcc.Store
	revisions    *revisions
	queue        *queue
	state        *state
	watchdog     watchdog
	housekeeping *housekeeping
	// pending is the batch of a commit whose outcome is not known yet.
	pending *batch
}

// callTask is a read of the token that is neither a getTask nor a commitTask. It may be
// done more than once.
type callTask func(*worker) error

// serve carries out requests until the context ends, which is no error, or the
// session is lost. The token is probed when nothing was asked of it for a while.
func (w *worker) serve(ctx context.Context) error {
	idle := time.NewTicker(probeInterval)
	defer idle.Stop()
	w.housekeeping.wake()
	for ctx.Err() == nil {
		err := w.step(ctx, idle)
		if err != nil {
			return err
		}
	}
	return nil
}

// step does one thing: what is due first, then what was asked for, then what makes
// room. Its error means that the session is lost.
func (w *worker) step(ctx context.Context, idle *time.Ticker) error {
	// A scrub goes before requests, or they would put it off for ever.
	if w.housekeeping.scrubDue() {
		return w.scrub()
	}
	if waiting := w.queue.requests(); len(waiting) > 0 {
		w.housekeeping.wake()
		idle.Reset(probeInterval)
		return w.carryOut(waiting)
	}
	if w.housekeeping.due() {
		return w.keepHouse()
	}
	select {
	case <-ctx.Done():
	case <-w.queue.arrived:
	case <-idle.C:
		w.versions.Trim()
		return w.watchdog.guard("looking for the token", w.connection.probe)
	}
	return nil
}

// carryOut does the first of the waiting requests, together with those of the
// others that can share its work. Its error means that the session is lost.
func (w *worker) carryOut(waiting []*request) error {
	switch task := waiting[0].task.(type) {
	case *getTask:
		return w.get(task.key, waiting)
	case *commitTask:
		return w.commit(waiting)
	case callTask:
		if !w.queue.begin(waiting[0]) {
			return nil
		}
		err := task(w)
		if lost := ifLost(err); lost != nil {
			w.repeat(err, waiting[0])
			return lost
		}
		waiting[0].done <- requestError(err)
		return nil
	default:
		panic(fmt.Sprintf("unknown task %T", task))
	}
}

// repeat puts requests back under which the session was lost, and of which nothing was
// made: with the next session they are carried out, and if there is none, the queue tells
// them why. One that was put back too often is told the error.
func (w *worker) repeat(err error, requests ...*request) {
	var again []*request
	for _, r := range requests {
		if r.repeats == maxRepeats {
			r.done <- requestError(err)
			continue
		}
		r.repeats++
		again = append(again, r)
	}
	w.queue.putBack(again...)
}
