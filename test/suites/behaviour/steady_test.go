// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	hsmcontroller "j5t.io/hsm/pkg/controller"
	"j5t.io/hsm/test/framework/await"
)

// createMany creates HSMSecrets that are compared every interval seconds.
func createMany(t testing.TB, namespace string, count int, interval int32) {
	t.Helper()
	for i := range count {
		h := &v1alpha1.HSMSecret{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("db-%d", i)},
			Spec:       v1alpha1.HSMSecretSpec{SyncInterval: interval},
			Data:       map[string][]byte{"password": fmt.Appendf(nil, "password-%d", i)},
		}
		if _, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Create(t.Context(), h, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitSynced waits until all HSMSecrets of a namespace are synced. It reads no
// values: the token has enough to do.
func awaitSynced(t testing.TB, namespace string, count int, limit time.Duration) {
	t.Helper()
	await.NoError(t, limit, func(context.Context) error {
		list, err := viewer.HsmV1alpha1().HSMSecrets(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		synced := 0
		for _, h := range list.Items {
			if meta.IsStatusConditionTrue(h.Status.Conditions, v1alpha1.HSMSecretSynced) && h.Status.ObservedGeneration == h.Generation {
				synced++
			}
		}
		if synced != count {
			return fmt.Errorf("%d of %d are synced", synced, count)
		}
		return nil
	})
}

// tokenCalls counts what the agent's audit log says of values, of the keys of a
// namespace.
func tokenCalls(t testing.TB, namespace string) (reads, writes int) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(hsm.LogDir(), "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(log) {
		if !bytes.Contains(line, []byte("/"+namespace+"/")) {
			continue
		}
		if bytes.Contains(line, []byte("Value read")) {
			reads++
		}
		if bytes.Contains(line, []byte("Value written")) {
			writes++
		}
	}
	return reads, writes
}

func revision(t testing.TB) uint64 {
	t.Helper()
	status, err := hsm.AgentStatus(t.Context(), hsm.AgentAddress)
	if err != nil {
		t.Fatal(err)
	}
	return status.GetRevision()
}

// steadyWindow is the variable that says for how long nothing happens: 35s if it is
// not set, which are three rounds of the safety net at its shortest interval. make
// soak waits for 5 minutes. It is longer where two rounds take longer.
const steadyWindow = "STEADY_WINDOW"

// TestSteady watches 200 objects to which nothing happens.
func TestSteady(t *testing.T) {
	const (
		objects  = 200
		interval = 10
	)
	window := 35 * time.Second
	if text := os.Getenv(steadyWindow); text != "" {
		var err error
		if window, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", steadyWindow, err)
		}
	}
	namespace := newNamespace(t)
	createMany(t, namespace, objects, interval)
	awaitSynced(t, namespace, objects, 2*time.Minute)
	inNamespace := func(c call) bool { return c.namespace == namespace }
	// What was written last may still be looked at once.
	quiet(t, func() int { return projector.proxy.count(func(c call) bool { return inNamespace(c) && c.writes() }) })

	before, beforeRevision := projector.proxy.snapshot(), revision(t)
	readsBefore, writesBefore := tokenCalls(t, namespace)
	began := time.Now()
	<-time.After(window) // This is the thing measured.
	rounds := func() int {
		gets := func(c call) bool { return inNamespace(c) && c.resource == "hsmsecrets" && c.method == "GET" }
		n := projector.proxy.count(gets)
		for c, earlier := range before {
			if gets(c) {
				n -= earlier
			}
		}
		return n / objects
	}
	await.NoError(t, time.Minute, func(context.Context) error {
		if n := rounds(); n < 2 {
			return fmt.Errorf("the safety net is not there: %d rounds", n)
		}
		return nil
	})
	seconds := time.Since(began).Seconds()
	reads, writes := tokenCalls(t, namespace)
	reads, writes = reads-readsBefore, writes-writesBefore
	statusWrites, secretCalls, gets := 0, 0, 0
	for c, n := range projector.proxy.snapshot() {
		n -= before[c]
		switch {
		case !inNamespace(c):
		case c.resource == "hsmsecrets/status":
			statusWrites += n
		case c.resource == "secrets":
			secretCalls += n
		case c.resource == "hsmsecrets" && c.method == "GET":
			gets += n
		case c.writes() && n > 0:
			t.Errorf("%d × %s", n, c)
		}
	}
	if writes > 0 || statusWrites > 0 || secretCalls > 0 {
		t.Errorf("%d token writes, %d status writes, %d calls for Secrets, want none: %s", writes, statusWrites, secretCalls, projector.proxy.since(before))
	}
	if after := revision(t); after != beforeRevision {
		t.Errorf("the store went from revision %d to %d", beforeRevision, after)
	}
	// Each object is due once in 10 s, or a little later. A GET that was on its way when the
	// counting began had been counted, and its read of the token had not.
	onTheirWay := hsmcontroller.NewOptions().Concurrency
	if most := int(float64(objects) * (seconds/interval + 1)); gets > most || reads > gets+onTheirWay {
		t.Errorf("%d GETs and %d reads of the token in %.0f s, want at most %d", gets, reads, seconds, most)
	}
	fmt.Printf("figure: steady-seconds %.0f\n", seconds)
	fmt.Printf("figure: steady-token-writes %d\n", writes)
	fmt.Printf("figure: steady-status-writes %d\n", statusWrites)
	fmt.Printf("figure: steady-secret-writes %d\n", secretCalls)
	fmt.Printf("figure: steady-gets-per-object-and-interval %.2f\n", float64(gets)/objects/(seconds/interval))

	t.Run("agent restarts", func(t *testing.T) { statusRestored(t, namespace, objects) })
	t.Run("controller restarts", func(t *testing.T) { nothingWritten(t, namespace, objects) })
}

// statusRestored has the agent lose all statuses: they come back, with the old
// time of the last sync, and no value is read for that by the controller.
func statusRestored(t *testing.T, namespace string, objects int) {
	name := "db-7"
	before, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	gets := func() int {
		return projector.proxy.count(func(c call) bool {
			return c.namespace == namespace && c.resource == "hsmsecrets" && c.method == "GET"
		})
	}
	reads, writes := tokenCalls(t, namespace)
	hsm.Agent.Kill()
	if err := hsm.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	getsBefore, began := gets(), time.Now()
	awaitSynced(t, namespace, objects, time.Minute)
	if n, net := gets()-getsBefore, objects+int(float64(objects)*time.Since(began).Seconds()/10); n > net {
		t.Errorf("%d values were read to restore the statuses, want none beyond the %d of the safety net", n, net)
	}
	readsNow, writesNow := tokenCalls(t, namespace)
	if writesNow != writes {
		t.Errorf("%d token writes", writesNow-writes)
	}
	t.Logf("%d values were read from the token while %d statuses were restored", readsNow-reads, objects)
	after, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !after.Status.LastSyncTime.Equal(before.Status.LastSyncTime) || after.Status.HSMChecksum != before.Status.HSMChecksum {
		t.Errorf("the status was %+v, is %+v", before.Status, after.Status)
	}
}

// nothingWritten starts the controller anew, which has forgotten everything.
func nothingWritten(t *testing.T, namespace string, objects int) {
	writes := func() int {
		return projector.proxy.count(func(c call) bool { return c.writes() && c.namespace == namespace })
	}
	gets := func() int {
		return projector.proxy.count(func(c call) bool { return c.method == "GET" && c.namespace == namespace })
	}
	projector.Kill()
	writesBefore, getsBefore := writes(), gets()
	if err := projector.restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, time.Minute, func(context.Context) error {
		// An HSMSecret and a Secret each.
		if n := gets() - getsBefore; n < 2*objects {
			return fmt.Errorf("%d GETs", n)
		}
		return nil
	})
	quiet(t, writes)
	if n := writes() - writesBefore; n > 0 {
		t.Errorf("%d writes because the controller was started", n)
	}
}

// quiet waits until a count has not changed for three seconds, or longer on a slow machine.
func quiet(t testing.TB, count func() int) {
	t.Helper()
	last, since := count(), time.Now()
	await.NoError(t, 60*time.Second, func(context.Context) error {
		if now := count(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < projector.proxy.quietTime(3*time.Second) {
			return errors.New("it goes on")
		}
		return nil
	})
}

// TestLastSyncTime has agent and controller forget everything at once: the
// Secret remembers when it was synced.
func TestLastSyncTime(t *testing.T) {
	namespace := newNamespace(t)
	createMany(t, namespace, 1, 300)
	awaitSynced(t, namespace, 1, time.Minute)
	get := func() *v1alpha1.HSMSecret {
		h, err := secrets.HsmV1alpha1().HSMSecrets(namespace).Get(t.Context(), "db-0", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	before := get()
	hsm.Agent.Kill()
	projector.Kill()
	// A second later, the time would be another.
	<-time.After(1100 * time.Millisecond)
	if err := hsm.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := projector.restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitSynced(t, namespace, 1, time.Minute)
	if after := get(); after.Status.LastSyncTime.Sub(before.Status.LastSyncTime.Time).Abs() > time.Second/2 {
		t.Errorf("lastSyncTime was %s, is %s", before.Status.LastSyncTime, after.Status.LastSyncTime)
	}
}
