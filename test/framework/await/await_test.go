// SPDX-License-Identifier: Apache-2.0

package await_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"j5t.io/hsm/test/framework/await"
)

func TestNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		took := await.NoError(t, time.Minute, func(context.Context) error {
			if asked++; asked < 4 {
				return errors.New("not yet")
			}
			return nil
		})
		if asked != 4 || took <= 0 || took > time.Second {
			t.Errorf("asked %d times in %s, want 4 times in less than a second", asked, took)
		}
	})
}

// TestPollReturnsTheLastError, and not that the time was over.
func TestPollReturnsTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := errors.New("wrong")
		err := await.Poll(t.Context(), time.Second, func(ctx context.Context) error {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > await.Limit(time.Second) {
				t.Errorf("the condition has time until %s", deadline)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(300 * time.Millisecond):
				return wrong
			}
		})
		if !errors.Is(err, wrong) {
			t.Errorf("%v, want %v", err, wrong)
		}
	})
}

func TestPollNeverAsked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := await.Poll(ctx, time.Second, func(context.Context) error { return ctx.Err() }); err == nil {
		t.Error("no error, though the context had ended")
	}
}
