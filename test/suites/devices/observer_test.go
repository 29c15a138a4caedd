// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// observer reads the secret all the time. Whatever happens to tokens, it wants the value
// that was written, or an error that is no 404.
type observer struct {
	mutex sync.Mutex
	// values are those that may be read: two during a write.
	values []string
	// there is true once the first write was acknowledged.
	there bool
	// reads and refused count the answers.
	reads, refused int
	wrong          []string
	end            func()
}

// observe begins to observe.
func (w *world) observe(ctx context.Context, t *testing.T) {
	t.Helper()
	o := &observer{}
	w.observer = o
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				o.read(ctx, w)
			}
		}
	})
	o.end = sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
	t.Cleanup(o.end)
}

// stop ends the observation, and fails the test for what was wrong.
func (o *observer) stop(t *testing.T) {
	t.Helper()
	o.end()
	if len(o.wrong) > 0 {
		t.Errorf("%d of %d reads were answered with what is not so, first: %s", len(o.wrong), o.reads, o.wrong[0])
	}
	if o.reads == 0 {
		t.Error("the observer has read nothing: it proves nothing")
	}
}

func (o *observer) read(ctx context.Context, w *world) {
	before, there := o.allowed()
	got, err := w.hsm.HsmV1alpha1().HSMSecrets(namespace).Get(ctx, secret, metav1.GetOptions{})
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if err != nil {
		o.refused++
	}
	switch {
	case err == nil:
		o.reads++
		// A write may have begun or ended during the read.
		if value := string(got.Data["password"]); !slices.Contains(slices.Concat(before, o.values), value) {
			o.wrong = append(o.wrong, time.Now().Format(time.TimeOnly)+" the value "+value)
		}
	case apierrors.IsNotFound(err) && there:
		o.wrong = append(o.wrong, time.Now().Format(time.TimeOnly)+" "+err.Error())
	}
}

func (o *observer) allowed() (values []string, there bool) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return slices.Clone(o.values), o.there
}

// observeMore waits until the secret was read this many times more, or refused.
func (w *world) observeMore(ctx context.Context, t *testing.T, more int) {
	t.Helper()
	began := w.observer.answers()
	eventually(ctx, t, "the secret is read", func(context.Context) error {
		if got := w.observer.answers() - began; got < more {
			return fmt.Errorf("%d answers", got)
		}
		return nil
	})
}

func (o *observer) answers() int {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.reads + o.refused
}

// during notes that a value is being written. The returned function notes that it has been.
func (o *observer) during(value string) (written func()) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.values = append(o.values, value)
	return func() {
		o.mutex.Lock()
		defer o.mutex.Unlock()
		o.values, o.there = []string{value}, true
	}
}
