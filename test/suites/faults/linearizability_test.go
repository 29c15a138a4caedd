// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	hsmclient "j5t.io/hsm/pkg/generated/clientset/versioned/typed/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/process"
)

const (
	linearNamespace = "linear"
	linearObjects   = 6
	linearClients   = 6
	linearKills     = 9
	// linearPause is how many requests are made between two kills.
	linearPause = 120
	// checkTime is much more than the check of a history that is in order takes.
	checkTime = 5 * time.Minute
)

// TestLinearizability records what clients of two API servers were told while
// these and the agent were killed again and again: it can be explained by one
// order of all requests, and watches tell of the same.
func TestLinearizability(t *testing.T) {
	createNamespace(t, linearNamespace)
	var servers []*process.Process
	var clients []hsmclient.HSMSecretInterface
	for i := range 2 {
		port, err := process.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		spec, err := hsm.APIServerSpec(t.Context(), "linear-"+strconv.Itoa(i), port)
		if err != nil {
			t.Fatal(err)
		}
		server, err := process.Start(soon(t), spec)
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, server)
		clients = append(clients, directClient(t, port))
	}
	defer func() {
		for _, server := range servers {
			server.Kill()
		}
	}()

	r := &recorder{began: time.Now()}
	ctx, stop := context.WithCancel(t.Context())
	var running, watching sync.WaitGroup
	for i := range linearClients {
		running.Go(func() { r.work(ctx, i, clients[i%2]) })
	}
	watchContext, endWatches := context.WithCancel(t.Context())
	defer endWatches()
	watchers := []*versionWatcher{{}, {}}
	for i, w := range watchers {
		watching.Go(func() { w.follow(watchContext, clients[i]) })
	}
	for i := range linearKills {
		at := r.count()
		await.NoError(t, time.Minute, func(context.Context) error {
			if n := r.count() - at; n < linearPause {
				return fmt.Errorf("%d requests since the last kill", n)
			}
			return nil
		})
		if i%3 == 2 {
			restartAgent(t)
			continue
		}
		server := servers[i%3]
		server.Kill()
		again, err := process.Start(soon(t), server.Spec)
		if err != nil {
			t.Fatal(err)
		}
		servers[i%3] = again
	}
	stop()
	running.Wait()
	// What watches were told last has to be behind all changes.
	mark, err := clients[0].Create(t.Context(), newSecret("mark"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	last := versionOf(mark)
	for _, w := range watchers {
		await.NoError(t, 30*time.Second, func(context.Context) error { return w.reached(last) })
	}
	endWatches()
	watching.Wait()

	violations := 0
	if result := porcupine.CheckOperationsTimeout(model, r.history, checkTime); result != porcupine.Ok {
		violations++
		_, info := porcupine.CheckOperationsVerbose(model, r.history, checkTime)
		picture := filepath.Join(os.TempDir(), "linearizability.html")
		t.Errorf("the history cannot be explained (%s); see %s: %v", result, picture, porcupine.VisualizePath(model, info, picture))
	}
	stale, ok := withStaleRead(r.history)
	if result := porcupine.CheckOperationsTimeout(model, stale, checkTime); !ok || result != porcupine.Illegal {
		t.Errorf("one read of this history was made stale (%t), and the check says %s", ok, result)
	}
	for i, w := range watchers {
		if told := w.told(); told < linearPause {
			t.Errorf("watch %d was told of %d changes only", i, told)
		}
		faults := w.faults(r.history)
		violations += len(faults)
		for _, fault := range faults {
			t.Errorf("watch %d: %s", i, fault)
		}
	}
	fmt.Printf("figure: linearizability-operations %d\n", len(r.history))
	fmt.Printf("figure: linearizability-violations %d\n", violations)
	t.Logf("%d of unknown outcome, %d kills", r.unknown, linearKills)
}

// withStaleRead gives what the history says of one object until a read of it, and
// makes that read one of a version that had been overwritten before.
func withStaleRead(history []porcupine.Operation) ([]porcupine.Operation, bool) {
	for i, read := range history {
		in, out := read.Input.(input), read.Output.(output)
		if in.verb != verbRead || out.outcome != done {
			continue
		}
		for _, write := range history[:i] {
			before := write.Output.(output)
			if before.outcome != done || before.value == "" || write.Input.(input).name != in.name ||
				write.Return >= read.Call || before.version >= out.version {
				continue
			}
			var stale []porcupine.Operation
			for _, operation := range history {
				if operation.Input.(input).name == in.name && operation.Call <= read.Call &&
					(operation.Return <= read.Call || operation.Output.(output).outcome == unknown) {
					stale = append(stale, operation)
				}
			}
			if overwritten(stale, before.version) {
				read.Output = before
				return append(stale, read), true
			}
		}
	}
	return nil, false
}

// overwritten reports whether somebody was told of a later version.
func overwritten(history []porcupine.Operation, version uint64) bool {
	return slices.ContainsFunc(history, func(operation porcupine.Operation) bool {
		return operation.Output.(output).version > version
	})
}

// directClient asks one API server itself.
func directClient(t *testing.T, port int) hsmclient.HSMSecretInterface {
	t.Helper()
	config := rest.CopyConfig(hsm.Admin)
	config.Host = fmt.Sprintf("https://127.0.0.1:%d", port)
	config.CAFile, config.CAData = "", hsm.ServingCA()
	config.QPS = -1
	client, err := versioned.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client.HsmV1alpha1().HSMSecrets(linearNamespace)
}

// recorder is what clients asked and were told.
type recorder struct {
	began time.Time

	mu      sync.Mutex
	history []porcupine.Operation
	values  int
	unknown int
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.history)
}

func (r *recorder) now() int64 { return time.Since(r.began).Nanoseconds() }

// newValue is one that was never written.
func (r *recorder) newValue() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values++
	return strconv.Itoa(r.values)
}

// note takes an answer into the history, unless it says nothing.
func (r *recorder) note(client int, begun int64, in input, out output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.now()
	if out.outcome == unknown {
		if in.verb == verbRead {
			return
		}
		r.unknown++
		end = math.MaxInt64 // It may still be made.
	}
	r.history = append(r.history, porcupine.Operation{ClientId: client, Input: in, Call: begun, Output: out, Return: end})
}

// work is one client.
func (r *recorder) work(ctx context.Context, client int, api hsmclient.HSMSecretInterface) {
	known := map[string]*v1alpha1.HSMSecret{} // As last read.
	for ctx.Err() == nil {
		in := input{name: fmt.Sprint("o", rand.IntN(linearObjects))}
		begun := r.now()
		request, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		var err error
		switch n := rand.IntN(10); {
		case n < 3:
			in.verb = verbRead
			var found *v1alpha1.HSMSecret
			if found, err = api.Get(request, in.name, metav1.GetOptions{}); err == nil {
				known[in.name] = found
			}
			r.note(client, begun, in, answerTo(found, err))
		case n < 4:
			err = r.list(request, client, begun, api)
		case n < 6:
			in.verb, in.value = verbCreate, r.newValue()
			secret := newSecret(in.name)
			secret.Data = map[string][]byte{"value": []byte(in.value)}
			var made *v1alpha1.HSMSecret
			made, err = api.Create(request, secret, metav1.CreateOptions{})
			r.noteChange(client, begun, in, made, err)
		case n < 9:
			secret := known[in.name]
			if secret == nil {
				break
			}
			in.verb, in.value, in.expected = verbUpdate, r.newValue(), versionOf(secret)
			secret = secret.DeepCopy()
			secret.Data = map[string][]byte{"value": []byte(in.value)}
			var made *v1alpha1.HSMSecret
			if made, err = api.Update(request, secret, metav1.UpdateOptions{}); err == nil {
				known[in.name] = made
			}
			r.noteChange(client, begun, in, made, err)
		default:
			in.verb = verbDelete
			var options metav1.DeleteOptions
			if secret := known[in.name]; secret != nil && rand.IntN(2) == 0 {
				in.expected = versionOf(secret)
				options.Preconditions = &metav1.Preconditions{ResourceVersion: &secret.ResourceVersion}
			}
			err = api.Delete(request, in.name, options)
			r.noteChange(client, begun, in, nil, err)
		}
		cancel()
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			select { // A server that is dead answers quickly.
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// list reads all objects at once.
func (r *recorder) list(ctx context.Context, client int, begun int64, api hsmclient.HSMSecretInterface) error {
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	found := map[string]*v1alpha1.HSMSecret{}
	for i := range list.Items {
		found[list.Items[i].Name] = &list.Items[i]
	}
	for i := range linearObjects {
		in := input{verb: verbRead, name: fmt.Sprint("o", i)}
		out := output{outcome: absent}
		if secret := found[in.name]; secret != nil {
			out = answerTo(secret, nil)
		}
		r.note(client, begun, in, out)
	}
	return nil
}

// noteChange leaves out changes that the server says were not made: if one was,
// somebody reads a value that nobody has written.
func (r *recorder) noteChange(client int, begun int64, in input, made *v1alpha1.HSMSecret, err error) {
	if apierrors.IsServiceUnavailable(err) && causeOf(err) != "" {
		return
	}
	r.note(client, begun, in, answerTo(made, err))
}

func answerTo(secret *v1alpha1.HSMSecret, err error) output {
	switch {
	case err == nil && secret == nil: // Deleted.
		return output{outcome: done}
	case err == nil:
		return output{outcome: done, value: string(secret.Data["value"]), version: versionOf(secret)}
	case apierrors.IsNotFound(err):
		return output{outcome: absent}
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return output{outcome: conflict}
	}
	return output{outcome: unknown}
}

func versionOf(obj interface{ GetResourceVersion() string }) uint64 {
	version, _ := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	return version
}

// versionWatcher follows all changes. Where the history has ended with the agent
// it lists and begins anew.
type versionWatcher struct {
	mu       sync.Mutex
	covered  []span
	versions map[string][]output // Of each object, in the order in which they came.
}

// span is from when to when a watch was told of everything.
type span struct{ from, to uint64 }

func (w *versionWatcher) reached(version uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.covered); n == 0 || w.covered[n-1].to < version {
		return fmt.Errorf("the watch has come to %v of %d", w.covered, version)
	}
	return nil
}

func (w *versionWatcher) follow(ctx context.Context, api hsmclient.HSMSecretInterface) {
	position := ""
	for ctx.Err() == nil {
		var stream watch.Interface
		var err error
		if position == "" {
			var list *v1alpha1.HSMSecretList
			if list, err = api.List(ctx, metav1.ListOptions{}); err == nil {
				position = list.ResourceVersion
				w.begin(versionOf(list))
			}
		}
		if err == nil {
			stream, err = api.Watch(ctx, metav1.ListOptions{ResourceVersion: position, AllowWatchBookmarks: true})
		}
		if err != nil {
			if apierrors.IsResourceExpired(err) {
				position = ""
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		for event := range stream.ResultChan() {
			secret, ok := event.Object.(*v1alpha1.HSMSecret)
			if !ok {
				if apierrors.IsResourceExpired(apierrors.FromObject(event.Object)) {
					position = ""
				}
				break
			}
			position = secret.ResourceVersion
			w.take(event.Type, secret)
		}
		stream.Stop()
	}
}

func (w *versionWatcher) begin(at uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.covered = append(w.covered, span{at, at})
}

func (w *versionWatcher) take(kind watch.EventType, secret *v1alpha1.HSMSecret) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.covered[len(w.covered)-1].to = versionOf(secret)
	if kind == watch.Bookmark {
		return
	}
	if w.versions == nil {
		w.versions = map[string][]output{}
	}
	told := output{outcome: done, value: string(secret.Data["value"]), version: versionOf(secret)}
	if kind == watch.Deleted {
		told.outcome = absent
	}
	w.versions[secret.Name] = append(w.versions[secret.Name], told)
}

// told is of how many changes.
func (w *versionWatcher) told() (n int) {
	for _, versions := range w.versions {
		n += len(versions)
	}
	return n
}

// faults compares what was watched with what clients have changed.
func (w *versionWatcher) faults(history []porcupine.Operation) []string {
	var faults []string
	type version struct {
		name string
		at   uint64
	}
	told := map[version]output{}
	for name, outputs := range w.versions {
		last := uint64(0)
		for _, o := range outputs {
			if o.version <= last {
				faults = append(faults, fmt.Sprintf("%s: told of version %d after %d", name, o.version, last))
			}
			last = o.version
			told[version{name, o.version}] = o
		}
	}
	written := map[string]string{} // Values, and whose they are.
	for _, operation := range history {
		in, out := operation.Input.(input), operation.Output.(output)
		if in.value != "" {
			written[in.value] = in.name
		}
		if in.value == "" || out.outcome != done || !w.covers(out.version) {
			continue
		}
		if got, ok := told[version{in.name, out.version}]; !ok || got.value != in.value || got.outcome != done {
			faults = append(faults, fmt.Sprintf("%s: version %d with value %s was told as %+v", in.name, out.version, in.value, got))
		}
	}
	for v, o := range told {
		if o.value != "" && written[o.value] != v.name {
			faults = append(faults, fmt.Sprintf("%s: told of value %s, which nobody has written", v.name, o.value))
		}
	}
	return faults
}

func (w *versionWatcher) covers(version uint64) bool {
	for _, s := range w.covered {
		if s.from < version && version <= s.to {
			return true
		}
	}
	return false
}
