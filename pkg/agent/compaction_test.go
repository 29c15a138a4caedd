// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"strings"
	"testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/test/framework/faulttoken"
)

// The tests of this file fill a Pico HSM, and count what each request costs. They are the
// worker meanwhile, and so say when it has time for housekeeping.

// filler fills a token with secrets.
type filler struct {
	*harness
	*worker
	size      int
	revisions []uint64 // Of the secrets.
}

// onFullToken carries out a test on the goroutine of the worker.
func onFullToken(t *testing.T, test func(*filler)) {
	t.Helper()
	h := run(t, faulttoken.New(faulttoken.Pico66), func(*Options) {})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	err := h.supervisor.worker.queue.do(h.ctx, callTask(func(w *worker) error {
		test(&filler{harness: h, worker: w, size: 600})
		return nil
	}), abandoned)
	if err != nil {
		t.Fatal(err)
	}
}

// put creates a secret, or updates one. It returns how many creates on the token the
// request cost, and whether the token was full.
func (f *filler) put(i int) (creates uint64, full bool) {
	var expected uint64
	if i < len(f.revisions) {
		expected = f.revisions[i]
	}
	task := &commitTask{in: put(fmt.Sprint(i), expected, strings.Repeat("x", f.size))}
	r := &request{ctx: f.ctx, task: task, done: make(chan error, 1)}
	if err := f.queue.push(r); err != nil {
		f.Error(err)
	}
	before := f.Calls().Creates
	if lost := f.worker.commit([]*request{r}); lost != nil {
		f.Error(lost)
	}
	creates = f.Calls().Creates - before
	if err := <-r.done; err != nil {
		if agentv1.ReasonOf(requestError(err)) != agentv1.Reason_REASON_FULL {
			f.Error(err)
		}
		return creates, true
	}
	if expected == 0 {
		f.revisions = append(f.revisions, 0)
	}
	f.revisions[i] = task.out.GetRevision()
	return creates, false
}

// create is put of one more secret.
func (f *filler) create() (creates uint64, full bool) { return f.put(len(f.revisions)) }

// idle lets the worker do what it does while nobody waits.
func (f *filler) idle() {
	f.housekeeping.wake()
	for f.housekeeping.awake {
		if err := f.keepHouse(); err != nil {
			f.Error(err)
			return
		}
	}
}

// TestSpaceIsThereWhenItIsNeeded: a worker that has time between the requests has made
// space by the time that it is needed, up to the last secret that fits.
func TestSpaceIsThereWhenItIsNeeded(t *testing.T) {
	t.Parallel()
	onFullToken(t, func(f *filler) {
		for !f.Failed() {
			creates, full := f.create()
			if full {
				if creates > 0 {
					t.Errorf("a request that was refused cost %d creates", creates)
				}
				break
			}
			if creates != 1 {
				t.Errorf("secret %d cost %d creates", len(f.revisions), creates)
			}
			f.idle()
		}
		if len(f.revisions) < 300 {
			t.Errorf("%d secrets of 600 bytes fit", len(f.revisions))
		}
		for i := range 100 {
			if creates, full := f.put(i * 7 % len(f.revisions)); full || creates != 1 {
				t.Errorf("update %d of a full token cost %d creates; refused: %t", i, creates, full)
			}
			f.idle()
		}
	})
}

// TestRequestPaysForOneCompaction: a worker that never has time makes no request wait for
// more than one commit beside its own, until the token is full indeed.
func TestRequestPaysForOneCompaction(t *testing.T) {
	t.Parallel()
	onFullToken(t, func(f *filler) {
		paid, refused := 0, 0
		for refused < 20 && !f.Failed() {
			creates, full := f.create()
			switch {
			case full:
				refused++
				if creates > 1 {
					t.Errorf("a request that was refused cost %d creates", creates)
				}
			case creates == 2:
				paid++
			case creates != 1:
				t.Errorf("secret %d cost %d creates", len(f.revisions), creates)
			}
		}
		if paid == 0 || len(f.revisions) < 300 {
			t.Errorf("%d requests have paid for compaction, and %d secrets fit", paid, len(f.revisions))
		}
	})
}

// TestLargeSecretFitsAfterAPause: what needs much compaction is refused, and fits when
// nobody has waited for a while.
func TestLargeSecretFitsAfterAPause(t *testing.T) {
	t.Parallel()
	onFullToken(t, func(f *filler) {
		for range 93 { // They take an object each.
			if _, full := f.create(); full {
				t.Errorf("the token is full of %d secrets", len(f.revisions))
			}
		}
		f.size = 32 << 10
		if creates, full := f.create(); !full || creates > 1 {
			t.Errorf("it cost %d creates; refused: %t", creates, full)
		}
		f.idle()
		if creates, full := f.create(); full || creates != 9 {
			t.Errorf("after a pause it cost %d creates; refused: %t", creates, full)
		}
	})
}
