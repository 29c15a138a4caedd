// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/token"
)

const (
	defaultScrubInterval = 24 * time.Hour
	// suspicionInterval is how long after a scrub for a suspicious error the next
	// one may come: what a scrub does not mend is not mended by many.
	suspicionInterval = 10 * time.Minute
)

// scrubDue tells whether the store has to be read from the token itself. It
// goes before requests, or they would put it off for ever.
func (w *worker) scrubDue() bool {
	now := w.clock.Now()
	return now.Sub(w.scrubbed) >= w.scrubInterval || w.suspicious && now.Sub(w.suspected) >= suspicionInterval
}

// scrub has the store read from the token itself, and mended. Its error means
// that the connection is lost.
func (w *worker) scrub(c *connection) error {
	if w.suspicious {
		w.suspected = w.clock.Now()
	}
	if err := w.watchdog.guard("scrubbing", c.scrub); err != nil {
		return lostError{err}
	}
	return w.load(c.store)
}

// noteScrub tells what opening or scrubbing a store has brought to light.
func (w *worker) noteScrub(store *token.Store) {
	w.scrubbed, w.suspicious = w.clock.Now(), false
	w.measured(store.Usage())
	found := store.RecoveryReport()
	w.reported(&agentv1.Scrub{
		Time: w.scrubbed.Unix(), IntervalSeconds: int64(w.scrubInterval / time.Second), Shadow: string(found.Log),
		RestoredObjects: found.Restored, QuarantinedObjects: found.Quarantined,
	})
	switch found.Log {
	case token.LogStale, token.LogForeign:
		klog.InfoS("The shadow of the token was dropped: the token has been written to without it", "shadow", found.Log)
	}
	if len(found.Restored) > 0 {
		klog.InfoS("The token had lost objects; they were written again from the shadow", "objects", found.Restored)
	}
	if len(found.Quarantined) > 0 {
		klog.InfoS("The token holds objects that are not of its store; they are left alone", "objects", found.Quarantined)
	}
	if len(found.Changed) > 0 {
		klog.InfoS("Others have changed the store on the token", "keys", found.Changed)
	}
}
