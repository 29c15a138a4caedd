// SPDX-License-Identifier: Apache-2.0

package records_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

// inParts lays out a Pod in all four parts: address is spec.hostname, data
// spec.nodeName, status status.message. Join puts the data's revision and the
// serial into status.reason.
type inParts struct{ codec runtime.Codec }

func newInParts() inParts {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{example.AddToScheme, examplev1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return inParts{apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion)}
}

func (l inParts) Split(obj runtime.Object) (records.Parts, error) {
	pod := obj.(*example.Pod).DeepCopy()
	parts := records.Parts{
		Address: pod.Spec.Hostname,
		Data:    []byte(pod.Spec.NodeName),
		Status:  []byte(pod.Status.Message),
	}
	pod.Spec.Hostname, pod.Spec.NodeName, pod.Status.Message, pod.Status.Reason = "", "", "", ""
	var err error
	parts.Meta, err = runtime.Encode(l.codec, pod)
	return parts, err
}

func (l inParts) Join(r *agentv1.Record, from records.Source, into runtime.Object) error {
	if err := runtime.DecodeInto(l.codec, r.GetMeta(), into); err != nil {
		return fmt.Errorf("%w: %w", records.ErrCorrupt, err)
	}
	pod := into.(*example.Pod)
	pod.Spec.Hostname, pod.Spec.NodeName, pod.Status.Message = r.GetAddress(), string(r.GetData()), string(r.GetStatus())
	pod.Status.Reason = fmt.Sprintf("%d on %s", r.GetDataRevision(), from.Serial)
	return nil
}

func (inParts) AddressField() *field.Path { return field.NewPath("spec", "hostname") }

func newStore(backend records.Backend) *records.Store {
	return records.New(backend, newInParts(), schema.GroupResource{Group: "example", Resource: "pods"}, "/pods", newPod)
}

func newPod() runtime.Object { return &example.Pod{} }

// update changes a Pod and returns what the store made of it.
func update(t *testing.T, store *records.Store, key string, change func(*example.Pod)) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	err := store.GuaranteedUpdate(t.Context(), key, out, true, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		change(obj.(*example.Pod))
		return obj, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestWhatIsCommitted shows that no more is written than has changed: flash wears.
func TestWhatIsCommitted(t *testing.T) {
	t.Parallel()
	m := newMemory()
	store := newStore(m)
	const key = "/pods/ns/a"
	created := update(t, store, key, func(p *example.Pod) { p.Name, p.Spec.NodeName = "a", "v1" })

	for _, c := range []struct {
		name     string
		change   func(*example.Pod)
		want     string
		sameData bool // The Pod says that its data is still that of its creation.
	}{
		{"nothing", func(*example.Pod) {}, "none", true},
		{"status", func(p *example.Pod) { p.Status.Message = "fine" }, "status", true},
		{"what the server fills in", func(p *example.Pod) { p.Status.Reason = "mine" }, "none", true},
		{"labels", func(p *example.Pod) { p.Labels = map[string]string{"a": "b"} }, "put, same data", true},
		{"status and labels", func(p *example.Pod) { p.Labels, p.Status.Message = nil, "" }, "put, same data", true},
		{"address", func(p *example.Pod) { p.Spec.Hostname = "here" }, "put, same data", true},
		{"data", func(p *example.Pod) { p.Spec.NodeName = "v2" }, "put", false},
	} {
		before := len(m.commits)
		out := update(t, store, key, c.change)
		got := "none"
		for _, in := range m.commits[before:] {
			switch {
			case in.GetSetStatus() != nil:
				got = "status"
			case in.GetPut().GetSameData():
				got = "put, same data"
			default:
				got = "put"
			}
		}
		if got != c.want {
			t.Errorf("%s: committed %s, want %s", c.name, got, c.want)
		}
		want := out.ResourceVersion + " on " + memorySerial
		if c.sameData {
			want = created.ResourceVersion + " on " + memorySerial
		}
		if out.Status.Reason != want {
			t.Errorf("%s: data is of %q, want %q", c.name, out.Status.Reason, want)
		}
	}
}

// TestWithoutData shows that values stay where they are when they are not asked
// for, and that an update is never made from an object without them.
func TestWithoutData(t *testing.T) {
	t.Parallel()
	m := newMemory()
	store := newStore(m)
	const key = "/pods/ns/a"
	update(t, store, key, func(p *example.Pod) { p.Name, p.Spec.NodeName = "a", "value" })

	ctx := records.WithoutData(t.Context())
	pod, list := &example.Pod{}, &example.PodList{}
	if err := store.Get(ctx, key, storage.GetOptions{}, pod); err != nil || pod.Name != "a" || pod.Spec.NodeName != "" {
		t.Errorf("get: %v, %v", pod, err)
	}
	for _, recursive := range []bool{true, false} {
		err := store.GetList(ctx, key, storage.ListOptions{Recursive: recursive, Predicate: storage.Everything}, list)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range list.Items {
			if item.Spec.NodeName != "" {
				t.Errorf("list, recursive %t: %v", recursive, item)
			}
		}
	}
	err := store.GuaranteedUpdate(ctx, key, pod, false, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		obj.(*example.Pod).Labels = map[string]string{"a": "b"}
		return obj, nil
	}), nil)
	if err != nil || pod.Spec.NodeName != "value" {
		t.Errorf("update: %v, %v", pod, err)
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	store := newStore(newMemory())
	update(t, store, "/pods/ns/a", func(p *example.Pod) { p.Name, p.Spec.Hostname = "a", "here" })
	update(t, store, "/pods/ns/b", func(p *example.Pod) { p.Name = "b" })

	create := store.Create(t.Context(), "/pods/ns/c", &example.Pod{Spec: example.PodSpec{Hostname: "here"}}, nil, 0)
	change := store.GuaranteedUpdate(t.Context(), "/pods/ns/b", &example.Pod{}, false, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			obj.(*example.Pod).Spec.Hostname = "here"
			return obj, nil
		}), nil)
	for name, err := range map[string]error{"c": create, "b": change} {
		var s apierrors.APIStatus
		if !apierrors.IsInvalid(err) || !errors.As(err, &s) {
			t.Errorf("%s: want 422, got %v", name, err)
			continue
		}
		details := s.Status().Details
		if details.Name != name || details.Kind != "Pod" || details.Group != "example" || len(details.Causes) != 1 ||
			details.Causes[0].Field != "spec.hostname" || details.Causes[0].Type != metav1.CauseTypeFieldValueDuplicate {
			t.Errorf("%s: the error does not name the field: %+v", name, details)
		}
	}
}

func TestErrorsOfTheBackendPass(t *testing.T) {
	t.Parallel()
	away := apierrors.NewServiceUnavailable("the token is away")
	m := newMemory()
	store := newStore(m)
	update(t, store, "/pods/ns/a", func(p *example.Pod) { p.Name = "a" })
	m.listErr = away
	list := &example.PodList{}
	err := store.GetList(t.Context(), "/pods/", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list)
	if !errors.Is(err, away) || len(list.Items) != 0 {
		t.Errorf("list: %v, %v", err, list.Items)
	}
	if _, err := store.Stats(t.Context()); !errors.Is(err, away) {
		t.Errorf("stats: %v", err)
	}
	if err := store.ReadinessCheck(); err != nil {
		t.Errorf("a token that is away takes the API away: %v", err)
	}

	gone := newStore(unreachable{m, away})
	for name, err := range map[string]error{
		"get":    gone.Get(t.Context(), "/pods/ns/a", storage.GetOptions{IgnoreNotFound: true}, &example.Pod{}),
		"create": gone.Create(t.Context(), "/pods/ns/a", &example.Pod{}, nil, 0),
		"update": gone.GuaranteedUpdate(t.Context(), "/pods/ns/a", &example.Pod{}, true, nil, nil, nil),
		"delete": gone.Delete(t.Context(), "/pods/ns/a", &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}),
		"single": gone.GetList(t.Context(), "/pods/ns/a", storage.ListOptions{Predicate: storage.Everything}, list),
		"watch":  watchError(gone.Watch(t.Context(), "/pods/", storage.ListOptions{Recursive: true, Predicate: storage.Everything})),
		"revision": func() error {
			_, err := gone.GetCurrentResourceVersion(t.Context())
			return err
		}(),
	} {
		if !errors.Is(err, away) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if revision := gone.CompactRevision(); revision != 0 {
		t.Errorf("compact revision %d of a store that is away", revision)
	}
}

func watchError(_ any, err error) error { return err }

// unreachable fails all calls but lists.
type unreachable struct {
	*memoryBackend
	err error
}

func (u unreachable) Get(context.Context, *agentv1.GetRequest) (*agentv1.GetResponse, error) {
	return nil, u.err
}

func (u unreachable) Commit(context.Context, *agentv1.CommitRequest) (*agentv1.CommitResponse, error) {
	return nil, u.err
}

func (u unreachable) Watch(context.Context, *agentv1.WatchRequest) (*agentv1.WatchResponse, func() (*agentv1.WatchResponse, error), error) {
	return nil, nil, u.err
}

func (u unreachable) Revisions(context.Context) (uint64, uint64, error) { return 0, 0, u.err }

func TestStats(t *testing.T) {
	t.Parallel()
	store := newStore(newMemory())
	if err := store.EnableResourceSizeEstimation(nil); err == nil {
		t.Error("no keys are taken")
	}
	for i := range 3 {
		update(t, store, "/pods/ns/"+strconv.Itoa(i), func(p *example.Pod) { p.Name = "pod" })
	}
	check := func(sized bool) {
		t.Helper()
		stats, err := store.Stats(t.Context())
		if err != nil || stats.ObjectCount != 3 || (stats.EstimatedAverageObjectSizeBytes > 0) != sized {
			t.Errorf("%+v, %v", stats, err)
		}
	}
	check(false)
	keys := func(context.Context) ([]string, error) { return nil, nil }
	if err := store.EnableResourceSizeEstimation(keys); err != nil {
		t.Fatal(err)
	}
	check(true)
	if err := store.EnableResourceSizeEstimation(keys); err == nil {
		t.Error("enabled twice")
	}
}

func TestDecorator(t *testing.T) {
	t.Parallel()
	m := newMemory()
	decorate := records.Decorator(
		func(resource schema.GroupResource) records.Backend {
			if resource.Resource != "pods" {
				t.Errorf("asked for %s", resource)
			}
			return m
		},
		func(codec runtime.Codec) records.Layout { return records.Whole{Codec: codec} })
	config := &storagebackend.ConfigForResource{
		Config:        storagebackend.Config{Codec: newInParts().codec},
		GroupResource: schema.GroupResource{Resource: "pods"},
	}
	store, destroy, err := decorate(config, "/example/pods", nil, newPod, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := &example.Pod{}
	in := &example.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	if err := store.Create(t.Context(), "/example/pods/ns/a", in, out, 0); err != nil || out.Name != "a" || out.ResourceVersion == "" {
		t.Errorf("%v, %v", out, err)
	}
	if err := store.Create(t.Context(), "/example/podsandmore/a", in, out, 0); err == nil {
		t.Error("wrote outside of its prefix")
	}
	destroy()
	destroy()
}
