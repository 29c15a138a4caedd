// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

// worker carries out requests, one after the other, on the one goroutine that
// owns the token. Reads of one record that wait share one token read; writes
// that wait share one commit. It never joins what was begun before: a read
// that a write has overtaken would serve the past.
type worker struct {
	clock    clock.PassiveClock
	queue    *queue
	versions *mvcc.Store
	watchdog watchdog
	measured func(token.Usage)    // Told how full the token is.
	reported func(*agentv1.Scrub) // Told what reading the whole store has found.
	// lastRevision is the last one that was given to a change, made or not.
	// None is given twice.
	lastRevision uint64
	// scrubInterval is how often all is read from the token itself.
	scrubInterval time.Duration
	scrubbed      time.Time // When that was last done.
	suspicious    bool      // Something read since makes it due.
	suspected     time.Time // When it was last done for that.
	// pending is the batch of a commit whose outcome is not known yet.
	pending *batch
}

// connection is a token that is served: logged in, its store verified.
type connection struct {
	session session
	store   *token.Store
	scrub   func() error // Has the store read from the token itself, in a new session.
	login   func() error // Again, after the token has lost the login.
	probe   func() error // Tells whether the token is still there, and gives it a new PIN if it is to get one.
}

// getTask reads one record with its data; record is nil when there is none.
type getTask struct {
	key      string
	record   *mvcc.Record
	data     []byte
	revision uint64
}

// callTask is any other read of the token.
type callTask func(*worker, *connection) error

// serve carries out requests until the context ends, which is no error, or the
// connection cannot be used any more. The token is probed when nothing was
// asked of it for an interval.
func (w *worker) serve(ctx context.Context, c *connection, interval time.Duration) error {
	idle := time.NewTicker(interval)
	defer idle.Stop()
	untidy := true
	for ctx.Err() == nil {
		var err error
		if w.scrubDue() {
			err = w.scrub(c)
			untidy = true
		} else if waiting := w.queue.requests(); len(waiting) > 0 {
			err = w.carryOut(c, waiting)
			untidy = true
			idle.Reset(interval)
		} else if untidy {
			untidy, err = w.tidy(c)
		} else {
			select {
			case <-ctx.Done():
			case <-w.queue.arrived:
			case <-idle.C:
				w.versions.Trim()
				err = w.watchdog.guard("looking for the token", c.probe)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tidy does one step of the store's housekeeping, packing included, and tells
// whether there are more. What the token refuses without being lost waits for the next occasion.
func (w *worker) tidy(c *connection) (more bool, err error) {
	err = w.watchdog.guard("tidying up", func() (err error) {
		more, err = c.store.Compact(w.nextRevision)
		return err
	})
	w.measured(c.store.Usage())
	if err != nil && ifLost(err) == nil {
		klog.ErrorS(err, "The token refused to be tidied")
		return false, nil
	}
	return more, err
}

// carryOut does the first of the waiting requests, together with those of the
// others that can share its work. Its error means that the connection is lost.
func (w *worker) carryOut(c *connection, waiting []*request) error {
	switch task := waiting[0].task.(type) {
	case *getTask:
		return w.get(c, task.key, waiting)
	case *commitTask:
		return w.commit(c, waiting)
	case callTask:
		if !w.queue.begin(waiting[0]) {
			return nil
		}
		err := task(w, c)
		waiting[0].done <- requestError(err)
		return ifLost(err)
	default:
		panic(fmt.Sprintf("unknown task %T", task))
	}
}

// get answers all that wait for one record by one read of the token.
func (w *worker) get(c *connection, key string, waiting []*request) error {
	var sharing []*request
	for _, r := range waiting {
		if task, ok := r.task.(*getTask); ok && task.key == key && w.queue.begin(r) {
			sharing = append(sharing, r)
		}
	}
	if len(sharing) == 0 {
		return nil
	}
	x, revision := w.versions.Current()
	result := getTask{key: key, record: x.Get(key), revision: revision}
	var err error
	if result.record != nil {
		result.data, err = w.data(c, result.record.Version())
	}
	for _, r := range sharing {
		*r.task.(*getTask) = result
		r.done <- requestError(err)
	}
	return ifLost(err)
}

// data gives the data of a version: from the token if that holds it, from the
// history if it was overwritten since.
func (w *worker) data(c *connection, v mvcc.Version) (data []byte, err error) {
	x, _ := w.versions.Current()
	if current := x.Get(v.Key); current == nil || current.Version() != v {
		return w.versions.Data(v)
	}
	err = w.read(c, func() (err error) {
		data, err = c.store.Data(v.Key)
		return err
	})
	return data, err
}

// read does a read of the token. A login that the token has lost is made
// again, once.
func (w *worker) read(c *connection, f func() error) error {
	err := w.watchdog.guard("reading", f)
	if pkcs11.ClassOf(err) == pkcs11.ClassRelogin {
		if err := w.watchdog.guard("logging in again", c.login); err != nil {
			return lostError{err}
		}
		err = w.watchdog.guard("reading", f)
	}
	w.suspicious = w.suspicious || isSuspicious(err)
	return err
}

// nextRevision grows over restarts, failover and tokens without a counter on
// the token. One that the token does not get has to be reserved.
func (w *worker) nextRevision() uint64 {
	w.lastRevision = max(w.lastRevision+1, uint64(w.clock.Now().UnixMilli())<<20)
	return w.lastRevision
}

// revisionAbove is nextRevision for a store whose revisions are not known yet.
func (w *worker) revisionAbove(above uint64) uint64 {
	w.lastRevision = max(w.lastRevision, above)
	return w.nextRevision()
}

// reserveAhead is how many revisions are reserved at a time, so that most of
// them cost no write of the shadow: those of ten seconds.
const reserveAhead = 10_000 << 20

// reservedRevision is nextRevision for a change that the token does not get. It
// is not given again, nor a lower one, when the agent is started anew, whatever
// its clock says then.
func (w *worker) reservedRevision(store *token.Store) (uint64, error) {
	revision := w.nextRevision()
	return revision, store.Reserve(revision, reserveAhead)
}
