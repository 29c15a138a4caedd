// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"
)

// backoff is a pause that doubles each time, up to a limit.
type backoff struct{ last, first, limit time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, b.first), b.limit)
	return b.last
}

// pause waits for the next pause, or until the context ends.
func (b *backoff) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(b.next()):
	}
}

func (b *backoff) reset() { b.last = 0 }
