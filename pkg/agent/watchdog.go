// SPDX-License-Identifier: Apache-2.0

package agent

import "time"

// watchdog ends the process when work at the token hangs: no call into a
// PKCS#11 module can be cancelled, and a new process is at work sooner than one
// that waits.
type watchdog struct {
	limit time.Duration
	bite  func(work string) // Does not return in production.
	// observe is told how long the work took.
	observe func(work string, took time.Duration)
}

// guard does work of a bounded number of token calls.
func (w watchdog) guard(work string, f func() error) error {
	timer := time.AfterFunc(w.limit, func() { w.bite(work) })
	defer timer.Stop()
	began := time.Now()
	defer func() { w.observe(work, time.Since(began)) }()
	return f()
}
