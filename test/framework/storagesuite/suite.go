// SPDX-License-Identifier: Apache-2.0

// Package storagesuite owns the run of Kubernetes' own storage suite
// (k8s.io/apiserver/pkg/storage/testing) over a backend of records. It never
// makes a test easier: what does not apply is left out with a reason, and counted.
package storagesuite

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

const unrelatedKey = "/unrelated"

// Backend is an empty store for one function of the suite.
type Backend struct {
	records.Backend
	// Compact makes a revision the oldest one that can still be read from. It is
	// nil where the history belongs to another.
	Compact func(t *testing.T, revision uint64)
}

// TTL is why no backend of ours passes the two functions that need a
// time-to-live.
const TTL = "objects of this API have no time-to-live; only Events have one"

// Run runs all functions of the suite, each on a new backend, but those that
// leaveOut gives a reason for. It returns how many ran and how many did not.
func Run(t *testing.T, newBackend func(*testing.T) Backend, leaveOut map[string]string) (run, skipped int) {
	known := map[string]bool{}
	for _, f := range functions {
		known[f.name] = true
		if reason, ok := leaveOut[f.name]; ok {
			skipped++
			t.Logf("left out: %s: %s", f.name, reason)
			continue
		}
		run++
		t.Run(f.name, func(t *testing.T) {
			for gate, enabled := range f.gates {
				featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, gate, enabled)
			}
			for name, run := range f.variants {
				t.Run(name, func(t *testing.T) { run(t.Context(), t, newFixture(t, newBackend(t))) })
			}
		})
	}
	for name := range leaveOut {
		if !known[name] {
			t.Errorf("the suite has no function %s to leave out", name)
		}
	}
	return run, skipped
}

// fixture is the store under test, and what the suite needs to disturb it. It
// implements both interfaces of the suite that exchange the transformer.
type fixture struct {
	*records.Store
	backend Backend
	layout  *layout
}

func newFixture(t *testing.T, backend Backend) *fixture {
	layout := newLayout()
	f := &fixture{
		Store: records.New(backend, layout, schema.GroupResource{Resource: "pods"}, "/pods",
			func() runtime.Object { return &example.Pod{} }),
		backend: backend,
		layout:  layout,
	}
	// As in etcd, no list is of a revision that nothing was written at.
	f.increaseRevision(t.Context(), t)
	return f
}

// UpdatePrefixTransformer implements storagetesting.InterfaceWithPrefixTransformer.
func (f *fixture) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	original := *f.layout.transformer.Load()
	changed := *original.(*storagetesting.PrefixTransformer)
	f.layout.setTransformer(modify(&changed))
	return func() { f.layout.setTransformer(original) }
}

// UpdateTransformer implements storagetesting.InterfaceWithTransformerOverride.
func (f *fixture) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	original := *f.layout.transformer.Load()
	f.layout.setTransformer(modify(original))
	return func() { f.layout.setTransformer(original) }
}

// increaseRevision writes to a key of no resource.
func (f *fixture) increaseRevision(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	before, err := f.backend.Get(ctx, &agentv1.GetRequest{Key: unrelatedKey})
	if err != nil {
		t.Fatal(err)
	}
	response, err := f.backend.Commit(ctx, &agentv1.CommitRequest{
		Key:              unrelatedKey,
		ExpectedRevision: before.GetRecord().GetRevision(),
		Change:           &agentv1.CommitRequest_Put{Put: &agentv1.Put{Data: []byte(time.Now().String())}},
	})
	if err != nil || !response.GetCommitted() {
		t.Fatalf("commit: %v, %v", response, err)
	}
	return int64(response.GetRevision())
}

// compact also increases the revision: etcd writes a key when it compacts, and
// the suite counts on it.
func (f *fixture) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	revision, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	f.backend.Compact(t, revision)
	f.increaseRevision(ctx, t)
}

// validateStored checks that no resourceVersion or selfLink is stored.
func (f *fixture) validateStored(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	response, err := f.backend.Get(ctx, &agentv1.GetRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	data, found := bytes.CutPrefix(response.GetRecord().GetData(), []byte(valuePrefix))
	if !found {
		t.Fatalf("nothing of the store lies at %s", key)
	}
	pod := &example.Pod{}
	if err := runtime.DecodeInto(f.layout.codec, data, pod); err != nil {
		t.Fatal(err)
	}
	if pod.ResourceVersion != "" || pod.GetSelfLink() != "" {
		t.Errorf("stored with resourceVersion %q and selfLink %q", pod.ResourceVersion, pod.GetSelfLink())
	}
}

// failTransformer gives the switch of a transformer that can fail.
func (f *fixture) failTransformer() func(bool) {
	t := &transformer{Transformer: *f.layout.transformer.Load()}
	f.layout.setTransformer(t)
	return t.failing.Store
}

// withProgress asks for the progress of all watches again and again, as a
// watch cache does that waits for a revision.
type withProgress struct {
	storage.Interface
	t *testing.T
}

func (s withProgress) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	s.t.Cleanup(cancel)
	w, err := s.Interface.Watch(ctx, key, opts)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := s.RequestWatchProgress(ctx); err != nil {
					s.t.Error(err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return w, err
}

// patientWrites lets creates outlive the deadline of a watch that is tested
// together with them: 100 writes to a token take longer than to etcd.
type patientWrites struct{ storage.Interface }

func (s patientWrites) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return s.Interface.Create(context.WithoutCancel(ctx), key, obj, out, ttl)
}

type function struct {
	name     string
	gates    map[featuregate.Feature]bool
	variants map[string]runFunc
}

type runFunc = func(context.Context, *testing.T, *fixture)

func one(run runFunc) map[string]runFunc { return map[string]runFunc{"one": run} }

// onStore is a function of the suite that needs only the store.
func onStore(run func(context.Context, *testing.T, storage.Interface)) map[string]runFunc {
	return one(func(ctx context.Context, t *testing.T, f *fixture) { run(ctx, t, f) })
}

func onPrefix(run func(context.Context, *testing.T, storagetesting.InterfaceWithPrefixTransformer)) map[string]runFunc {
	return one(func(ctx context.Context, t *testing.T, f *fixture) { run(ctx, t, f) })
}

var (
	withUnsafeDelete    = map[featuregate.Feature]bool{features.AllowUnsafeMalformedObjectDeletion: true}
	withoutUnsafeDelete = map[featuregate.Feature]bool{features.AllowUnsafeMalformedObjectDeletion: false}
	errCorrupt          = fmt.Errorf("bits flipped: %w", records.ErrCorrupt)
)
