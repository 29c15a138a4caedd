// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/test/framework/await"
)

const (
	replicaNamespace = "replicas"
	// replicaRestarts is the variable that says how often replicas are told to
	// stop, and how often they are killed: fourfold if it is not set. make soak
	// goes on for minutes.
	replicaRestarts = "REPLICA_RESTARTS"
	replicaWriters  = 4
	// caughtUp is how long a reflector may take to know everything: after many
	// errors it waits for up to a minute before it tries again (client-go,
	// backoffManager of a Reflector: 30 s and as much jitter).
	caughtUp = time.Minute + 30*time.Second
)

// TestReplicas restarts two API servers in turn under load: told to stop, they
// fail no request; killed, only those under way on them. All who watch are told
// of everything, once.
func TestReplicas(t *testing.T) {
	restarts := 4
	if text := os.Getenv(replicaRestarts); text != "" {
		var err error
		if restarts, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", replicaRestarts, err)
		}
	}
	createNamespace(t, replicaNamespace)
	b := startReplicas(t, 2)
	served(t)
	createSecret(t, replicaNamespace, lastObject)
	watching, endWatching := context.WithCancel(t.Context())
	defer endWatching()
	observers, running := observe(watching, t, replicaNamespace)

	l := &load{t: t, histories: map[string]*history{}}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for i := range replicaWriters {
		writers.Go(func() { l.write(ctx, i) })
	}
	missed := 0
	begun := time.Now()
	next := kubectlWait(watching, replicaNamespace, 0)
	for i := range 2 * restarts {
		// Begun before the restart before, so it has to live through this one.
		waiting := next
		next = kubectlWait(watching, replicaNamespace, i+1)
		gracefully := i < restarts
		if i == restarts {
			for _, o := range observers {
				if n := o.repeated(); n > 0 {
					t.Errorf("%s: told %d times of what it knew, though no replica was killed", o.name, n)
					missed += n
				}
			}
		}
		r := b.replicas[i%2]
		at := l.count()
		await.NoError(t, 20*time.Second, func(context.Context) error { // Load on both sides of the restart.
			if done := l.count() - at; done < 40 {
				return fmt.Errorf("%d requests since the last restart", done)
			}
			return nil
		})
		if !gracefully {
			l.kill()
		}
		if err := r.stop(soon(t), gracefully); err != nil {
			t.Error(err)
		}
		if err := r.start(soon(t)); err != nil {
			t.Fatal(err)
		}
		await.NoError(t, 10*time.Second, func(context.Context) error {
			if !r.isReady() {
				return fmt.Errorf("the balancer does not see it")
			}
			return nil
		})
		if err := takeTurn(t.Context(), replicaNamespace, i, waiting); err != nil {
			t.Errorf("kubectl wait: %v", err)
			missed++
		}
	}
	stop()
	writers.Wait()

	l.check()
	for _, o := range observers {
		err := await.Poll(t.Context(), caughtUp, func(context.Context) error {
			for name, h := range l.histories {
				if faults := o.faults(name, *h); len(faults) > 0 {
					return fmt.Errorf("%s: %v, told %v, done %+v", name, faults, o.of(name), h)
				}
			}
			return nil
		})
		if err == nil {
			continue
		}
		t.Errorf("%s: %v", o.name, err)
		for name, h := range l.histories {
			missed += len(o.faults(name, *h))
		}
	}
	endWatching()
	running.Wait()
	t.Logf("the last kubectl wait was ended: %v", <-next)
	fmt.Printf("figure: replica-seconds %.0f\n", time.Since(begun).Seconds())
	fmt.Printf("figure: replica-restarts %d\n", 2*restarts)
	fmt.Printf("figure: replica-requests %d\n", l.requests)
	fmt.Printf("figure: replica-requests-failed %d\n", len(l.failures))
	fmt.Printf("figure: informer-missed-events %d\n", missed)
}

// load is what some clients do at once, each with its own objects.
type load struct {
	t *testing.T

	mu        sync.Mutex
	requests  int
	histories map[string]*history
	failures  []failure
	kills     []*kill
}

// kill is that of a process. Those who were connected to it do not notice at once: what
// they send meanwhile is under way on it. They have, once requests succeed that were
// begun after it.
type kill struct {
	at      time.Time
	later   int       // Requests begun after it that have succeeded.
	noticed time.Time // Zero until then.
}

// covers says whether a failed request may have been under way on the process.
func (k *kill) covers(f failure) bool {
	return f.end.After(k.at) && (k.noticed.IsZero() || f.begun.Before(k.noticed))
}

type failure struct {
	what       string
	err        error
	begun, end time.Time
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests
}

// kill notes that a process is about to be killed.
func (l *load) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kills = append(l.kills, &kill{at: time.Now()})
}

// succeeded notes a request that has, and when each writer can know of the last kill.
func (l *load) succeeded(begun time.Time) {
	if len(l.kills) == 0 {
		return
	}
	last := l.kills[len(l.kills)-1]
	if begun.Before(last.at) {
		return
	}
	if last.later++; last.later == 2*replicaWriters {
		last.noticed = time.Now()
	}
}

// do makes a request. A failure makes the history unsure.
func (l *load) do(ctx context.Context, what string, h *history, request func(context.Context) (resourceVersion string, err error)) bool {
	begun := time.Now()
	version, err := request(context.WithoutCancel(ctx))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	switch {
	case err != nil:
		h.unsure = true
		l.failures = append(l.failures, failure{what, err, begun, time.Now()})
	default:
		l.succeeded(begun)
		if version != "" {
			h.versions = append(h.versions, version)
		}
	}
	return err == nil
}

// write makes, changes, reads and deletes objects, and leaves every third.
func (l *load) write(ctx context.Context, writer int) {
	client := secrets.HSMSecrets(replicaNamespace)
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("w%d-%d", writer, i)
		h := &history{}
		l.mu.Lock()
		l.histories[name] = h
		l.mu.Unlock()
		ok := l.do(ctx, "create "+name, h, func(ctx context.Context) (string, error) {
			made, err := client.Create(ctx, newSecret(name), metav1.CreateOptions{})
			return made.GetResourceVersion(), err
		})
		ok = ok && l.do(ctx, "patch "+name, h, func(ctx context.Context) (string, error) {
			patch := fmt.Appendf(nil, `{"stringData":{"password":"%d"}}`, rand.Uint64())
			made, err := client.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
			return made.GetResourceVersion(), err
		})
		ok = ok && l.do(ctx, "get "+name, h, func(ctx context.Context) (string, error) {
			found, err := client.Get(ctx, name, metav1.GetOptions{})
			if err == nil && found.ResourceVersion != h.versions[1] {
				err = fmt.Errorf("read version %s after %v was written", found.ResourceVersion, h.versions)
			}
			return "", err
		})
		ok = ok && l.do(ctx, "list", h, func(ctx context.Context) (string, error) {
			_, err := client.List(ctx, metav1.ListOptions{LabelSelector: "no=such"})
			return "", err
		})
		if ok && i%3 != 0 {
			h.deleted = l.do(ctx, "delete "+name, h, func(ctx context.Context) (string, error) {
				return "", client.Delete(ctx, name, metav1.DeleteOptions{})
			})
		}
	}
}

// check wants all failures to be of requests that were under way on a process
// that was killed.
func (l *load) check() {
	l.t.Helper()
	for _, f := range l.failures {
		if !slices.ContainsFunc(l.kills, func(k *kill) bool { return k.covers(f) }) {
			l.t.Errorf("%s failed after %s: %v", f.what, f.end.Sub(f.begun), f.err)
		}
	}
	if l.requests == 0 || len(l.kills) == 0 {
		l.t.Error("nothing was tried")
	}
}
