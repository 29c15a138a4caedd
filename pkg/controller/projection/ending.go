// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// retryRacedAfter is the time until a pair is synced again that others have written
	// during the pass. It doubles with each such pass, up to maxRacedDelay; after
	// tolerableRaces of them it is reported.
	retryRacedAfter = 100 * time.Millisecond
	maxRacedDelay   = 10 * time.Second
	tolerableRaces  = 5
	// yieldTime is enough for others to be taken from the queue first.
	yieldTime = 10 * time.Millisecond
)

var (
	// errUnchanged ends a pass that finds nothing new.
	errUnchanged = errors.New("nothing has changed")
	// errGone ends a pass of an HSMSecret that is gone, or being deleted.
	errGone = errors.New("the HSMSecret is gone")
	// errEditedTooOften: each answer to an edit may write the token.
	errEditedTooOften = errors.New("the Secret is edited or deleted again and again; edits are answered more slowly now")
	// errNotConverging: the decisions contradict each other, or somebody writes as fast as
	// the controller.
	errNotConverging = errors.New("token and Secret are not in sync after several writes; they are synced again")
)

// An ending is how a pass has ended.
type ending string

const (
	endComplete    ending = "Complete"    // Nothing is left to do until the next check.
	endGone        ending = "Gone"        // There is nothing to sync any more.
	endRaced       ending = "Raced"       // Others have written at the same time.
	endContested   ending = "Contested"   // Others edit the Secret again and again.
	endUnavailable ending = "Unavailable" // The token or an API server is away.
	endFailed      ending = "Failed"      // Anything else.
)

// endingOf is a pure function of the error of a pass.
func endingOf(err error) ending {
	switch {
	case err == nil, errors.Is(err, errUnchanged):
		return endComplete
	case errors.Is(err, errGone):
		return endGone
	case apierrors.IsConflict(err):
		return endRaced
	case errors.Is(err, errEditedTooOften):
		return endContested
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return endGone
	case isAway(err):
		return endUnavailable
	}
	return endFailed
}

// end says when to come back, and reports a failure:
//
//	Complete     at the next check
//	Gone         never
//	Raced        at once, nearly; ever later, and reported, if it happens again and again
//	Contested    reported; when the next edit may be answered
//	Unavailable  reported; at the next probe
//	Failed       reported; ever later
func (r *reconciler) end(ctx context.Context, p *pass, err error) (reconcile.Result, error) {
	how := endingOf(err)
	switch how {
	case endComplete:
		return idle(p.state.nextCheck.Sub(r.clock.Now())), nil
	case endGone:
		r.states.forget(p.name)
		return reconcile.Result{}, nil
	}
	p.err = err
	p.state.stale, p.state.lostEdit = true, p.lostEdit
	switch how {
	case endRaced:
		delay := min(retryRacedAfter<<min(p.state.races, 10), maxRacedDelay)
		if p.state.races++; p.state.races > tolerableRaces {
			r.reportFailure(ctx, p)
		}
		return reconcile.Result{RequeueAfter: delay}, nil
	case endContested:
		r.reportFailure(ctx, p)
		return reconcile.Result{RequeueAfter: editInterval}, nil
	}
	r.reportFailure(ctx, p)
	if how == endUnavailable {
		return reconcile.Result{RequeueAfter: wait.Jitter(probeInterval, 0.5)}, nil
	}
	return reconcile.Result{}, err
}

// reportFailure counts a failure, makes an Event of the first of several, and writes the
// status.
func (r *reconciler) reportFailure(ctx context.Context, p *pass) {
	failures.WithLabelValues(failureReason(p.err)).Inc()
	if !p.state.failureReported {
		p.state.failureReported = true
		r.recordFailure(p)
	}
	if p.hsm == nil {
		return // There is nothing new to say about it.
	}
	status := p.status(r.clock.Now())
	if p.state.status != nil && isSame(status, *p.state.status) {
		return
	}
	// Where even that fails, the Event must do.
	if r.writeStatus(ctx, p.name, status) == nil {
		p.state.status = &status
	}
}
