// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"errors"
	"io"
	"net/url"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// probeInterval is the time between two requests while the token or an API
// server is away. Five seconds after its return, everything is to be in sync.
const probeInterval = time.Second

// outage lets one request through in each probeInterval while token or API
// server are away, however many objects wait for them.
type outage struct {
	clock clock.PassiveClock

	mu    sync.Mutex
	away  bool
	probe time.Time // The next request is due.
}

// wait returns how long to wait before a request; zero is not at all.
func (o *outage) wait() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.clock.Now()
	if !o.away {
		return 0
	}
	if now.Before(o.probe) {
		// Not all at once.
		return wait.Jitter(o.probe.Sub(now), 0.5)
	}
	o.probe = now.Add(probeInterval)
	return 0
}

// note takes the outcome of a request that needs the token, and reports whether the token
// has gone away or come back.
func (o *outage) note(err error) (changed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.away
	o.away = isAway(err)
	if o.away {
		o.probe = o.clock.Now().Add(probeInterval)
	}
	apiAway.Set(map[bool]float64{true: 1}[o.away])
	return was != o.away
}

// isAway reports whether an error says that the token or an API server is away, or too
// busy: it says nothing about the object.
func isAway(err error) bool {
	if apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		return false // It is a timeout, too, but of a list that waits for what will not come.
	}
	var unreached *url.Error
	return errors.As(err, &unreached) || errors.Is(err, io.ErrUnexpectedEOF) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err)
}

// NewInformer makes an informer whose list waits for an API server that is away.
// An error instead would make the reflector back off for up to 30 seconds.
func NewInformer(lw cache.ListerWatcher, example runtime.Object, resync time.Duration, indexers cache.Indexers) cache.SharedIndexInformer {
	inner := cache.ToListerWatcherWithContext(lw)
	return cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (list runtime.Object, err error) {
			for {
				list, err = inner.ListWithContext(ctx, options)
				if !isAway(err) {
					return list, err
				}
				select {
				case <-ctx.Done():
					return nil, err
				case <-time.After(wait.Jitter(probeInterval, 0.2)):
				}
			}
		},
		WatchFuncWithContext: inner.WatchWithContext,
	}, example, resync, indexers)
}
