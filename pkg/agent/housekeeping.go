// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/token"
)

const (
	// suspicionInterval is how long after a scrub for a suspicious error the next
	// one may come: what a scrub does not mend is not mended by many.
	suspicionInterval = 10 * time.Minute
	// How long after a failure garbage is collected, or the store compacted, again;
	// each time twice as long, up to a limit. A write that is refused for lack of
	// space waits for the first pause only.
	firstHousekeepingRetry, lastHousekeepingRetry = 10 * time.Second, time.Hour
	// How often the token may be lost in the middle before that is a failure too: there may
	// be an object on it that ends every session.
	maxLosses = 3
)

// The tasks of housekeeping, as a *token.HousekeepingError names them.
const (
	taskCollect = "collecting garbage"
	taskCompact = "compacting"
	taskScrub   = "scrubbing"
)

// housekeeping is when the store gets the work that no request asks for. A failure
// of it takes the store away from nobody: it is told in status, metrics and log, and
// the work is done later.
type housekeeping struct {
	clock         clock.PassiveClock
	state         *state
	metrics       *metrics
	scrubInterval time.Duration

	awake     bool      // There may be something to collect or to compact.
	collected bool      // Of these, nothing to collect.
	losses    int       // Of the token, while it was done, one after the other.
	retries   backoff   // Of collecting and compacting.
	failed    time.Time // When one of them failed last.
	retry     time.Time // When they are done again.

	reopen       bool      // The store cannot be used until it was read again.
	suspicious   bool      // An error calls for a scrub.
	scrubRetries backoff   // Of scrubs that fail.
	scrub        time.Time // When the next one is due.
	suspectScrub time.Time // When the next one is due if an error calls for it.
}

func newHousekeeping(clock clock.PassiveClock, scrubInterval time.Duration, state *state, metrics *metrics) *housekeeping {
	return &housekeeping{
		clock: clock, state: state, metrics: metrics, scrubInterval: scrubInterval,
		retries:      backoff{first: firstHousekeepingRetry, limit: lastHousekeepingRetry},
		scrubRetries: backoff{first: suspicionInterval, limit: max(suspicionInterval, scrubInterval)},
	}
}

// wake says that there may be something to collect or to compact.
func (h *housekeeping) wake() { h.awake, h.collected = true, false }

// suspect notes that the token may not hold what it should: that calls for a scrub.
func (h *housekeeping) suspect() { h.suspicious = true }

// due reports whether it is time for a step of collecting or compacting.
func (h *housekeeping) due() bool { return h.awake && !h.clock.Now().Before(h.retry) }

// urgent reports whether a step may be done now for a write that lacks space.
func (h *housekeeping) urgent() bool { return h.clock.Now().Sub(h.failed) >= firstHousekeepingRetry }

// scrubDue reports whether the store has to be read from the token itself.
func (h *housekeeping) scrubDue() bool {
	now := h.clock.Now()
	return h.reopen || !now.Before(h.scrub) || h.suspicious && !now.Before(h.suspectScrub)
}

// done notes that a step of collecting or compacting has succeeded.
func (h *housekeeping) done(task string, more bool) {
	h.state.setHousekeeping(task, nil)
	h.losses = 0
	switch {
	case task == taskCollect && !more:
		h.collected = true
	case task == taskCompact && more:
		h.collected = false // What was compacted is garbage now.
	case task == taskCompact:
		h.awake = false
		h.retries.reset()
	}
}

// fail notes that a step has failed.
func (h *housekeeping) fail(task string, err error) {
	h.metrics.housekeepingFailed(task)
	h.state.setHousekeeping(task, err)
	now := h.clock.Now()
	var pause time.Duration
	if task == taskScrub {
		pause = h.scrubRetries.next()
		h.suspicious = false
		h.scrub, h.suspectScrub = now.Add(pause), now.Add(pause)
	} else {
		pause = h.retries.next()
		h.collected = false
		h.failed, h.retry = now, now.Add(pause)
	}
	klog.ErrorS(err, "Housekeeping failed; the store is served, and it is done again later", "task", task, "after", pause)
}

// keepHouse does one step of collecting garbage or, when there is none, of
// compacting. Its error means that the token is lost.
func (w *worker) keepHouse() error {
	h, store := w.housekeeping, w.connection.store
	task := taskCollect
	if h.collected {
		task = taskCompact
	}
	var more bool
	err := w.withLogin("tidying up", func() (err error) {
		if task == taskCollect {
			more, err = store.CollectGarbage()
		} else {
			more, err = store.Compact(w.revisions.next)
		}
		return err
	})
	w.state.setStore(store)
	if refused := store.Usage().Refused; err == nil && task == taskCompact && !more && refused > 0 {
		// Each try writes. What the token has refused it will refuse for some time.
		err = &token.HousekeepingError{Task: task, Err: fmt.Errorf("the token refuses objects of %d bytes although there are free slots", refused)}
		h.fail(task, err)
		return nil
	}
	if err == nil {
		h.done(task, more)
		return nil
	}
	lost := w.recoverFrom(err)
	if lost != nil && h.losses < maxLosses { // It was pulled: when it is back the work is due as before.
		h.losses++
		h.collected = false
		return lost
	}
	h.fail(task, err)
	return lost
}

// recoverFrom finds out what a failure of housekeeping has left: a store that goes
// on, one that has to be read again, or a token that is lost, which alone is an error.
func (w *worker) recoverFrom(err error) error {
	if lost := ifLost(err); lost != nil {
		return lost
	}
	if w.connection.store.Stale() {
		w.housekeeping.reopen = true
		return nil
	}
	var failure *token.HousekeepingError
	if !errors.As(err, &failure) || !meaningOf(failure.Err).lost {
		return nil
	}
	// The code says that the token is gone; tokens say that of a single object too.
	if w.watchdog.guard("looking for the token", w.connection.ping) != nil {
		return lostError{err}
	}
	return nil
}

// makeSpace does some of the housekeeping that makes space for a change which was
// refused, and reports whether the change may be tried again: it destroys what garbage
// there is while the change lacks space, and makes one commit that compacts, for that may
// take a second, and many of them minutes. All else is done while nobody waits. Its error
// means that the token is lost.
func (w *worker) makeSpace() (again bool, lost error) {
	h := w.housekeeping
	h.wake()
	for compacted := false; h.awake && h.urgent() && w.connection.store.LacksSpace(); again = true {
		if h.collected {
			if compacted {
				break
			}
			compacted = true
		}
		if lost = w.keepHouse(); lost != nil || h.reopen {
			return false, lost
		}
	}
	return again, nil
}

// scrub has the store read from the token itself, and mended. Requests wait
// meanwhile. Its error means that the token is lost.
func (w *worker) scrub() error {
	h := w.housekeeping
	if h.suspicious {
		h.suspectScrub = h.clock.Now().Add(suspicionInterval)
	}
	err := w.watchdog.guard("scrubbing", w.connection.scrub)
	if err == nil {
		return w.load()
	}
	var failure *token.HousekeepingError
	if !errors.As(err, &failure) || w.connection.store.Stale() {
		return lostError{err}
	}
	// The store goes on as it was, in the new session.
	h.fail(taskScrub, err)
	return nil
}

// noteRecovery tells what opening or scrubbing a store has brought to light.
func (w *worker) noteRecovery(store *token.Store) {
	h := w.housekeeping
	now := h.clock.Now()
	h.reopen, h.suspicious, h.scrub = false, false, now.Add(h.scrubInterval)
	h.scrubRetries.reset()
	w.state.setHousekeeping(taskScrub, nil)
	w.state.setStore(store)
	report := store.RecoveryReport()
	w.state.setScrub(&agentv1.Scrub{
		Time: now.Unix(), IntervalSeconds: int64(h.scrubInterval / time.Second), Shadow: string(report.Log),
		RestoredObjects: report.Restored, QuarantinedObjects: report.Quarantined,
	})
	switch report.Log {
	case token.LogStale, token.LogForeign:
		klog.InfoS("The log beside the token was dropped: the token has been written to without it", "log", report.Log)
	}
	if len(report.Restored) > 0 {
		klog.InfoS("The token had lost objects; they were written again from the log", "objects", report.Restored)
	}
	if len(report.Stuck) > 0 {
		klog.InfoS("The token refuses to destroy objects; their slots are lost until it is initialised anew", "objects", report.Stuck)
	}
	if len(report.Quarantined) > 0 {
		klog.InfoS("The token holds objects that are not of its store; they are left alone", "objects", report.Quarantined)
	}
	if len(report.Changed) > 0 {
		klog.InfoS("Others have changed the store on the token", "keys", report.Changed)
	}
}
