// SPDX-License-Identifier: Apache-2.0

package agent

import "time"

// watchdog ends the process when work at the token hangs: no call into a
// PKCS#11 module can be cancelled, and a new process is at work sooner than one
// that waits.
type watchdog struct {
	limit time.Duration
	// onTimeout does not return in production.
	onTimeout func(work string)
	metrics   *metrics // Of how long the work took.
}

// guard does work of a bounded number of token calls.
func (w watchdog) guard(work string, f func() error) error {
	timer := time.AfterFunc(w.limit, func() { w.onTimeout(work) })
	defer timer.Stop()
	began := time.Now()
	defer func() { w.metrics.observe(work, time.Since(began)) }()
	return f()
}
