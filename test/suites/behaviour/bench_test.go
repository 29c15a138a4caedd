// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
)

const (
	// samples are enough for a 99th percentile that is not the slowest of all.
	samples = 300
	// sampled objects share them: edits of one Secret are answered at once, as long
	// as they are not too many.
	sampled = 30
)

// p99 reports the 99th percentile of times, in milliseconds.
func p99(b *testing.B, figure string, times []time.Duration) {
	b.Helper()
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	slowest := ms(times[len(times)*99/100])
	b.ReportMetric(ms(times[len(times)/2]), "p50-ms")
	b.ReportMetric(slowest, "p99-ms")
	fmt.Printf("figure: %s %.0f\n", figure, slowest)
}

// BenchmarkProjection takes the time from an acknowledged write to the token
// until the Secret has the new value.
func BenchmarkProjection(b *testing.B) {
	namespace := newNamespace(b)
	createMany(b, namespace, sampled, 300)
	awaitSynced(b, namespace, sampled, 30*time.Second)
	events, err := core.CoreV1().Secrets(namespace).Watch(b.Context(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer events.Stop()
	for b.Loop() {
		times := make([]time.Duration, 0, samples)
		for i := range samples {
			name, value := fmt.Sprintf("db-%d", i%sampled), fmt.Sprintf("token-%d", i)
			h, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(b.Context(), name, metav1.GetOptions{})
			if err != nil {
				b.Fatal(err)
			}
			h.Data = map[string][]byte{"password": []byte(value)}
			if _, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Update(b.Context(), h, metav1.UpdateOptions{}); err != nil {
				b.Fatal(err)
			}
			began := time.Now()
			seen(b, events, func(object any) bool {
				secret := object.(*corev1.Secret)
				return secret.Name == name && string(secret.Data["password"]) == value
			})
			times = append(times, time.Since(began))
		}
		p99(b, "projection-p99-ms", times)
	}
}

// BenchmarkBackSync takes the time from an acknowledged edit of a Secret until
// the token has the new value.
func BenchmarkBackSync(b *testing.B) {
	namespace := newNamespace(b)
	createMany(b, namespace, sampled, 300)
	awaitSynced(b, namespace, sampled, 30*time.Second)
	events, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Watch(b.Context(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer events.Stop()
	for b.Loop() {
		times := make([]time.Duration, 0, samples)
		for i := range samples {
			name, value := fmt.Sprintf("db-%d", i%sampled), fmt.Sprintf("secret-%d", i)
			secret, err := core.CoreV1().Secrets(namespace).Get(b.Context(), name, metav1.GetOptions{})
			if err != nil {
				b.Fatal(err)
			}
			secret.Data = map[string][]byte{"password": []byte(value)}
			if _, err := core.CoreV1().Secrets(namespace).Update(b.Context(), secret, metav1.UpdateOptions{}); err != nil {
				b.Fatal(err)
			}
			began := time.Now()
			seen(b, events, func(object any) bool {
				h := object.(*v1alpha1.HSMSecret)
				return h.Name == name && string(h.Data["password"]) == value
			})
			times = append(times, time.Since(began))
		}
		p99(b, "backsync-p99-ms", times)
	}
}

// seen waits for an event with an object that is right.
func seen(b *testing.B, events watch.Interface, right func(object any) bool) {
	b.Helper()
	deadline := time.After(await.Limit(30 * time.Second))
	for {
		select {
		case event, open := <-events.ResultChan():
			if !open || event.Type == watch.Error {
				b.Fatalf("the watch has ended: %v", event)
			}
			if right(event.Object) {
				return
			}
		case <-deadline:
			b.Fatal("not seen")
		}
	}
}

// BenchmarkThousand has kubectl apply 1,000 HSMSecrets, and waits until all are
// projected. Beside it stands what the token takes for 1,000 writes, one after
// the other, as kubectl makes them.
func BenchmarkThousand(b *testing.B) {
	const objects = 1000
	for b.Loop() {
		b.StopTimer()
		namespace := newNamespace(b)
		var manifest strings.Builder
		for i := range objects {
			fmt.Fprintf(&manifest, "---\napiVersion: hsm.j5t.io/v1alpha1\nkind: HSMSecret\nmetadata:\n  name: db-%d\nstringData:\n  password: password-%d\n", i, i)
		}
		path := filepath.Join(b.TempDir(), "thousand.yaml")
		if err := os.WriteFile(path, []byte(manifest.String()), 0o600); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		began := time.Now()
		if _, _, err := hsm.Kubectl(hsm.AdminKubeconfig).Run(b.Context(), "--namespace="+namespace, "apply", "--server-side", "--filename="+path); err != nil {
			b.Fatal(err)
		}
		applied := time.Since(began)
		await.NoError(b, 10*time.Minute, func(context.Context) error {
			list, err := core.CoreV1().Secrets(namespace).List(b.Context(), metav1.ListOptions{LabelSelector: "managed-by=hsm-secrets-operator", ResourceVersion: "0"})
			if err != nil {
				return err
			}
			if len(list.Items) < objects {
				return fmt.Errorf("%d of %d are projected", len(list.Items), objects)
			}
			return nil
		})
		projected := time.Since(began)
		b.StopTimer()
		awaitSynced(b, namespace, objects, 5*time.Minute)
		written := writeToToken(b, objects)
		fmt.Printf("figure: projected-1000-seconds %.1f\n", projected.Seconds())
		fmt.Printf("figure: kubectl-apply-1000-seconds %.1f\n", applied.Seconds())
		fmt.Printf("figure: token-writes-1000-seconds %.1f\n", written.Seconds())
		b.ReportMetric(projected.Seconds()/written.Seconds(), "times-token")
		b.StartTimer()
	}
}

// writeToToken takes the time of writes that the agent gets without an API
// server, and takes them back.
func writeToToken(b *testing.B, count int) time.Duration {
	b.Helper()
	connection, err := hsm.DialAgent(hsm.AgentAddress)
	if err != nil {
		b.Fatal(err)
	}
	defer connection.Close()
	store := agentv1.NewStoreClient(connection)
	revisions := make([]uint64, count)
	began := time.Now()
	for i := range revisions {
		response, err := store.Commit(b.Context(), &agentv1.CommitRequest{Key: "/bench/" + strconv.Itoa(i), Change: &agentv1.CommitRequest_Put{
			Put: &agentv1.Put{Meta: bytes.Repeat([]byte("m"), 800), Data: []byte("password")},
		}})
		if err != nil || !response.GetCommitted() {
			b.Fatalf("%v, %v", response, err)
		}
		revisions[i] = response.GetRevision()
	}
	took := time.Since(began)
	for i, revision := range revisions {
		_, err := store.Commit(b.Context(), &agentv1.CommitRequest{Key: "/bench/" + strconv.Itoa(i), ExpectedRevision: revision, Change: &agentv1.CommitRequest_Delete{Delete: &agentv1.Delete{}}})
		if err != nil {
			b.Fatal(err)
		}
	}
	return took
}

// BenchmarkForeignSecrets puts 10,000 Secrets of 50 KB of others beside 200 of
// ours, and takes the memory that a controller needs to start and to work.
func BenchmarkForeignSecrets(b *testing.B) {
	const (
		foreign = 10000
		size    = 50 << 10
		own     = 200
	)
	for b.Loop() {
		b.StopTimer()
		namespace := newNamespace(b)
		createForeignSecrets(b, namespace, foreign, size)
		createMany(b, namespace, own, 10)
		awaitSynced(b, namespace, own, 2*time.Minute)
		projector.Kill()
		b.StartTimer()
		if err := projector.restart(b.Context()); err != nil {
			b.Fatal(err)
		}
		gets := func() int {
			return projector.proxy.count(func(c call) bool { return c.namespace == namespace && c.method == "GET" })
		}
		before := gets()
		// Start, and two rounds of the safety net.
		await.NoError(b, 2*time.Minute, func(context.Context) error {
			if n := gets() - before; n < 2*own+2*own {
				return fmt.Errorf("%d GETs", n)
			}
			return nil
		})
		peak := peakMemory(b, projector.PID())
		b.ReportMetric(peak, "peak-MiB")
		fmt.Printf("figure: controller-rss-mib-10k-foreign %.1f\n", peak)
		b.StopTimer()
		if err := core.CoreV1().Namespaces().Delete(b.Context(), namespace, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func createForeignSecrets(b *testing.B, namespace string, count, size int) {
	b.Helper()
	config := rest.CopyConfig(hsm.Admin)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		b.Fatal(err)
	}
	value := bytes.Repeat([]byte("x"), size)
	numbers := make(chan int)
	var group sync.WaitGroup
	failed := make(chan error, 8)
	for range 8 {
		group.Go(func() {
			for i := range numbers {
				secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("foreign-%d", i)}, Data: map[string][]byte{"value": value}}
				if _, err := client.CoreV1().Secrets(namespace).Create(b.Context(), secret, metav1.CreateOptions{}); err != nil && !errors.Is(err, context.Canceled) {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for i := range count {
		numbers <- i
	}
	close(numbers)
	group.Wait()
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
}

// peakMemory is the most that was resident of a process, in MiB (proc(5), VmHWM).
func peakMemory(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatal("the kernel does not tell VmHWM")
	return 0
}
