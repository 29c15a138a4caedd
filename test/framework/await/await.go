// SPDX-License-Identifier: Apache-2.0

// Package await lets tests wait for what takes its time. It looks again and again,
// and never sleeps for a time that somebody has guessed.
package await

import (
	"context"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// slowest is how much longer than on a machine of its own a test may take: where others
// work too, or where there is little of a processor.
const slowest = 10

// Limit makes a deadline of what is a generous one on a machine that has nothing else to
// do. It is for what hangs: a test ends when its condition is there.
func Limit(limit time.Duration) time.Duration { return slowest * limit }

// interval is short beside what is waited for, which are processes and their answers.
const interval = 50 * time.Millisecond

// NoError waits until a condition returns nil, and returns how long that took. The test
// fails with the condition's last error if the Limit is over, with which the context
// of the condition ends.
func NoError(t testing.TB, limit time.Duration, condition func(context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := Poll(t.Context(), limit, condition); err != nil {
		t.Fatalf("not within %s: %v", Limit(limit), err)
	}
	return time.Since(began)
}

// Poll is NoError for those who are not the test: it returns the condition's last error.
func Poll(ctx context.Context, limit time.Duration, condition func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, interval, Limit(limit), true, func(ctx context.Context) (bool, error) {
		// That the time is over says less than what was wrong before.
		if err := condition(ctx); err == nil || last == nil || ctx.Err() == nil {
			last = err
		}
		return last == nil, nil
	})
	if err != nil && last == nil {
		return err // The condition was never asked.
	}
	return last
}
