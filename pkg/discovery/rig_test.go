// SPDX-License-Identifier: Apache-2.0

package discovery_test

import (
	"context"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	metadatafake "k8s.io/client-go/metadata/fake"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
	"j5t.io/hsm/pkg/discovery/uevent"
	hsmfake "j5t.io/hsm/pkg/generated/clientset/versioned/fake"
)

var (
	nodes = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	pods  = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
)

// TestMain drops the handler that slows repeated errors down: it compares the times of
// two bubbles, or of a bubble and the machine, and would sleep for years.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}

// source is a made-up kernel. Every source of a rig receives from the same channel.
type source struct {
	outcomes <-chan error
	closed   chan struct{}
}

func (s *source) Receive() (uevent.Event, error) {
	select {
	case <-s.closed:
		return uevent.Event{}, io.ErrClosedPipe
	case err := <-s.outcomes:
		return uevent.Event{Action: "add", DevPath: "/devices/usb1/1-1", Env: map[string]string{"SUBSYSTEM": "usb"}}, err
	}
}

func (s *source) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

// rig is a discovery in a bubble of made-up time, on a made-up node and cluster.
type rig struct {
	t        *testing.T
	tree     sysfstest.Tree
	hsm      *hsmfake.Clientset
	metadata *metadatafake.FakeMetadataClient
	// kernel sends events, by nil, or errors.
	kernel    chan error
	discovery *discovery.Discovery
	// opened is how often the source was opened.
	opened atomic.Int32
	scans  *prometheus.Registry
	access discovery.Access
	stop   func()
}

// newRig starts discovery in the bubble of t. Objects are HSMDevices and HSMPools.
func newRig(t *testing.T, podAnnotations map[string]string, prepare func(*rig), objects ...runtime.Object) *rig {
	t.Helper()
	scheme := metadatafake.NewTestScheme()
	must(t, metav1.AddMetaToScheme(scheme))
	r := &rig{
		t:    t,
		tree: newTree(t, pico(1, "E1")),
		hsm:  hsmfake.NewSimpleClientset(objects...),
		metadata: metadatafake.NewSimpleMetadataClient(scheme,
			&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: node}},
			&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{
				Namespace: "hsm-system", Name: "discovery-abcde", UID: "1", Annotations: podAnnotations,
			}},
		),
		kernel: make(chan error),
		scans:  prometheus.NewRegistry(),
	}
	if prepare != nil {
		prepare(r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	r.discovery = discovery.New(discovery.Config{
		Matcher:        newMatcher(t, r.tree.Host),
		PodNamespace:   "hsm-system",
		PodName:        "discovery-abcde",
		RescanInterval: 30 * time.Second,
		HSM:            r.hsm,
		Metadata:       r.metadata,
		Metrics:        discovery.NewMetrics(r.scans),
		Access:         r.access,
		Listen: func() (discovery.Source, error) {
			r.opened.Add(1)
			return &source{outcomes: r.kernel, closed: make(chan struct{})}, nil
		},
	})
	go func() {
		defer close(done)
		if err := r.discovery.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	r.stop = func() { cancel(); <-done }
	return r
}

// after lets time pass, and everything come to rest.
func (r *rig) after(d time.Duration) {
	time.Sleep(d) // made-up time
	synctest.Wait()
}

// writes is how often the report was written.
func (r *rig) writes() (count int) {
	for _, action := range r.metadata.Actions() {
		if action.Matches("patch", "pods") {
			count++
		}
	}
	return count
}

// reports fails unless the pod's report says so, one line an entry.
func (r *rig) reports(what string, want ...string) {
	r.t.Helper()
	pod, err := r.metadata.Resource(pods).Namespace("hsm-system").Get(r.t.Context(), "discovery-abcde", metav1.GetOptions{})
	must(r.t, err)
	value, found := pod.Annotations[report.Annotation]
	if !found {
		if len(want) > 0 {
			r.t.Errorf("%s: no report, want %q", what, want)
		}
		return
	}
	entries, err := report.Decode(value)
	must(r.t, err)
	if len(entries) != len(want) {
		r.t.Errorf("%s: got %s, want %q", what, value, want)
		return
	}
	for i, entry := range entries {
		if brief(entry) != want[i] {
			r.t.Errorf("%s: got %q, want %q", what, brief(entry), want[i])
		}
	}
}

// scanCount is how often the node was scanned.
func (r *rig) scanCount() uint64 {
	families, err := r.scans.Gather()
	must(r.t, err)
	for _, family := range families {
		if family.GetName() == "hsm_discovery_scan_duration_seconds" {
			return family.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	return 0
}

var autoPico = hsmDevice("a", v1alpha1.HSMDeviceSpec{Discovery: auto})

const (
	one = "a: E1@/dev/bus/usb/001/001"
	two = "a: E1@/dev/bus/usb/001/001 E2@/dev/bus/usb/001/002"
)
