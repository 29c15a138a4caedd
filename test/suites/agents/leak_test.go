// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/test/framework/await"
)

const (
	leakWatches = 1000
	leakAtOnce  = 50
)

// TestWatchesLeaveNothing opens and closes 1,000 watches of HSMSecrets, through
// kube-apiserver and at our server itself. Then our process has no goroutine of
// any kind more than before.
func TestWatchesLeaveNothing(t *testing.T) {
	begin(t)
	ours := direct(t, hsm.AdminKubeconfig)
	// All kinds of connections are made by then.
	openAndClose(t, ours, leakAtOnce)
	before := goroutines(t, ours)
	openAndClose(t, ours, leakWatches)

	leaked := 0
	defer func() { fmt.Printf("figure: apiserver-goroutines-leaked %d\n", leaked) }()
	await.NoError(t, patience, func(context.Context) error {
		leaked = 0
		var more []string
		for stack, n := range goroutines(t, ours) {
			extra := n - before[stack]
			// One more connection of kube-apiserver, or of its health checks, is none of a watch.
			if extra > 0 && strings.Contains(stack, "j5t.io/hsm/") || extra > 2 {
				leaked += extra
				more = append(more, fmt.Sprintf("%d more of\n%s", extra, stack))
			}
		}
		if leaked > 0 {
			return fmt.Errorf("after %d watches: %s", leakWatches, strings.Join(more, "\n"))
		}
		return nil
	})
}

// openAndClose has half of the readers read, and half of the watches end by
// themselves.
func openAndClose(t *testing.T, ours *rest.Config, watches int) {
	t.Helper()
	var readers sync.WaitGroup
	for i := range leakAtOnce {
		config := hsm.Admin
		if i%2 == 0 {
			config = ours
		}
		clients, err := versioned.NewForConfig(config)
		must(t, err)
		secrets := clients.HsmV1alpha1().HSMSecrets("default")
		readers.Go(func() {
			for n := range watches / leakAtOnce {
				ctx, cancel := context.WithTimeout(t.Context(), await.Limit(time.Minute))
				w, err := secrets.Watch(ctx, metav1.ListOptions{AllowWatchBookmarks: n%3 == 0})
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				if i%4 < 2 {
					<-w.ResultChan()
				}
				if n%2 == 0 {
					w.Stop()
				}
				cancel()
			}
		})
	}
	readers.Wait()
}

// goroutines counts those of our server by what they do.
func goroutines(t *testing.T, ours *rest.Config) map[string]int {
	t.Helper()
	code, body := ask(t, ours, "/debug/pprof/goroutine?debug=1")
	if code != http.StatusOK {
		t.Fatalf("profile: %d: %s", code, body)
	}
	counts := map[string]int{}
	_, profile, _ := strings.Cut(body, "\n") // The first line is the sum.
	for group := range strings.SplitSeq(profile, "\n\n") {
		// N @ 0x… 0x…
		// #	0x…	function+0x…	file:line
		head, stack, _ := strings.Cut(group, "\n")
		count, _, _ := strings.Cut(head, " @ ")
		n, err := strconv.Atoi(count)
		if err != nil {
			continue // Empty.
		}
		counts[stack] += n
	}
	if len(counts) < 10 {
		t.Fatalf("the profile is not as it should be:\n%s", body)
	}
	return counts
}
