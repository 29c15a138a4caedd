// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"j5t.io/hsm/test/framework/await"
)

const (
	watches = 500
	// updates are seen by all who watch.
	updates = 50
	// memoryLimit is what the API server may take, in MiB.
	memoryLimit = 150
)

// BenchmarkMemory takes the memory of the API server with 1,000 objects, listed
// whole, and 500 watches that all get every change.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		secrets := client.HsmV1alpha1().HSMSecrets(namespace)
		list, err := secrets.List(b.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != objects {
			b.Fatalf("%d objects, %v", len(list.Items), err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		var readers sync.WaitGroup
		var seen atomic.Int64
		for range watches {
			w, err := secrets.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true})
			if err != nil {
				b.Fatal(err)
			}
			readers.Go(func() {
				defer w.Stop()
				for n := 0; n < updates; {
					e, open := <-w.ResultChan()
					switch {
					case !open, e.Type == watch.Error:
						b.Errorf("a watch has ended: %v", e)
						return
					case e.Type == watch.Modified:
						n++
						seen.Add(1)
					}
				}
				<-ctx.Done()
			})
		}
		for i := range updates {
			s := list.Items[i].DeepCopy()
			s.Data["password"] = []byte(time.Now().String())
			if _, err := secrets.Update(b.Context(), s, metav1.UpdateOptions{}); err != nil {
				b.Fatal(err)
			}
			awaitSeen(b, &seen, watches*int64(i+1))
		}
		now, peak := memory(b, "VmRSS"), memory(b, "VmHWM")
		cancel()
		readers.Wait()
		b.ReportMetric(now, "MiB")
		b.ReportMetric(peak, "peak-MiB")
		fmt.Printf("figure: apiserver-rss-mib %.1f\n", peak)
		if peak > memoryLimit {
			b.Errorf("the API server has taken %.1f MiB, at most %d are meant", peak, memoryLimit)
		}
	}
}

// awaitSeen waits until so many events were seen, all together.
func awaitSeen(b *testing.B, seen *atomic.Int64, want int64) {
	b.Helper()
	for deadline := time.Now().Add(await.Limit(2 * time.Minute)); seen.Load() < want; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("%d of %d events were seen", seen.Load(), want)
		}
	}
}

// memory is a field of the API server's process, in MiB (proc(5), status): what
// is resident, or was at most.
func memory(b *testing.B, field string) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", hsm.APIServer.PID()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatalf("the kernel does not tell %s", field)
	return 0
}
