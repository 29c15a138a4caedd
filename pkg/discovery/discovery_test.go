// SPDX-License-Identifier: Apache-2.0

package discovery_test

import (
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/discovery/uevent"
	hsmfake "j5t.io/hsm/pkg/generated/clientset/versioned/fake"
)

func TestHotPlug(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		// tell is how the kernel tells of a change, after which it has to be reported within.
		tell   func(*rig)
		within time.Duration
	}{
		"event":    {func(r *rig) { r.kernel <- nil }, 200 * time.Millisecond},
		"overflow": {func(r *rig) { r.kernel <- uevent.ErrOverflow }, 200 * time.Millisecond},
		"silence":  {func(*rig) {}, 31 * time.Second},
		"the end of the source": {func(r *rig) {
			opened := r.opened.Load()
			r.kernel <- io.ErrUnexpectedEOF
			for r.opened.Load() == opened {
				r.after(100 * time.Millisecond)
			}
		}, 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil, nil, autoPico)
				defer r.stop()
				r.after(time.Second)
				r.reports("at the start", one)

				must(t, r.tree.Plug(pico(2, "E2")))
				test.tell(r)
				r.after(test.within)
				r.reports("plugged in", two)

				must(t, r.tree.Unplug("1-1"))
				test.tell(r)
				r.after(test.within)
				r.reports("unplugged", "a: E2@/dev/bus/usb/001/002")

				again := pico(1, "E1")
				again.DeviceNumber = "9"
				must(t, r.tree.Plug(again))
				test.tell(r)
				r.after(test.within)
				r.reports("plugged in again", "a: E1@/dev/bus/usb/001/009 E2@/dev/bus/usb/001/002")
				if got := r.writes(); got != 4 {
					t.Errorf("%d writes for 4 reports", got)
				}
			})
		})
	}
}

// TestSecondLook: what udev does after the kernel's event is seen without another event.
func TestSecondLook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, autoPico)
		defer r.stop()
		r.after(5 * time.Second)
		r.kernel <- nil
		r.after(time.Second)
		must(t, r.tree.Plug(pico(2, "E2")))
		r.after(1100 * time.Millisecond)
		r.reports("two seconds after the event", two)
	})
}

// TestEventStorm: a storm neither starves the looks nor makes one for each event.
func TestEventStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, autoPico)
		defer r.stop()
		r.after(time.Second)
		before := r.scanCount()
		must(t, r.tree.Plug(pico(2, "E2")))
		for range 1000 {
			r.kernel <- nil
			r.after(10 * time.Millisecond)
		}
		r.reports("in the storm", two)
		if scans := r.scanCount() - before; scans < 50 || scans > 101 {
			t.Errorf("%d scans in ten seconds of events", scans)
		}
		if got := r.writes(); got != 2 {
			t.Errorf("%d writes", got)
		}
	})
}

// TestFreshness counts the writes of a node where nothing happens.
func TestFreshness(t *testing.T) {
	t.Parallel()
	pool := func(name string, grace time.Duration) *v1alpha1.HSMPool {
		return &v1alpha1.HSMPool{
			ObjectMeta: metav1.ObjectMeta{Namespace: "hsm-system", Name: name},
			Spec:       v1alpha1.HSMPoolSpec{GracePeriod: &metav1.Duration{Duration: grace}},
		}
	}
	for name, test := range map[string]struct {
		pools []runtime.Object
		want  time.Duration
	}{
		"no pool":           {nil, 150 * time.Second},
		"default":           {[]runtime.Object{&v1alpha1.HSMPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, 150 * time.Second},
		"the shortest":      {[]runtime.Object{pool("a", time.Hour), pool("b", time.Minute)}, 30 * time.Second},
		"below a rescan":    {[]runtime.Object{pool("a", 20*time.Second)}, 10 * time.Second},
		"too short to keep": {[]runtime.Object{pool("a", time.Second)}, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil, nil, append(test.pools, autoPico)...)
				defer r.stop()
				r.after(time.Minute)
				before := r.writes()
				r.after(time.Hour)
				want := int(time.Hour / test.want)
				// Times in a report are whole seconds, so that a turn of the loop may be due a second early.
				if got := r.writes() - before; got < want || got > want*5/4 {
					t.Errorf("%d writes in an hour, want %d", got, want)
				}
			})
		})
	}
}

// TestUnknown: nothing is reported before HSMDevices are known, and discovery goes on
// with those that it knows when their API is away later.
func TestUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		unavailable := errors.New("the server is currently unable to handle the request")
		r := newRig(t, nil, func(r *rig) {
			r.hsm.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
				return away.Load(), nil, unavailable
			})
		}, autoPico)
		defer r.stop()
		r.after(5 * time.Minute)
		r.reports("no HSMDevice known")
		away.Store(false)
		r.after(5 * time.Minute)
		r.reports("HSMDevices known", one)

		away.Store(true)
		must(t, r.tree.Plug(pico(2, "E2")))
		r.kernel <- nil
		r.after(time.Second)
		r.reports("API away again", two)
		before := r.writes()
		r.after(time.Hour)
		if r.writes() == before {
			t.Error("the report was not renewed")
		}
	})
}

func TestChangesOfTheCluster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		selective := hsmDevice("b", v1alpha1.HSMDeviceSpec{Discovery: byUSB("2e8a", "10fd", "E1"), NodeSelector: map[string]string{"hsm": "true"}})
		r := newRig(t, nil, nil)
		defer r.stop()
		r.after(time.Second)
		r.reports("no HSMDevice")
		if got := r.writes(); got != 1 {
			t.Errorf("%d writes, want 1: an empty report is one", got)
		}

		_, err := r.hsm.HsmV1alpha1().HSMDevices("hsm-system").Create(t.Context(), autoPico, metav1.CreateOptions{})
		must(t, err)
		_, err = r.hsm.HsmV1alpha1().HSMDevices("hsm-system").Create(t.Context(), selective, metav1.CreateOptions{})
		must(t, err)
		r.after(time.Second)
		r.reports("HSMDevices made", one, "b: not selected")

		labelled := &metav1.PartialObjectMetadata{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
			ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"hsm": "true"}},
		}
		must(t, r.metadata.Tracker().Update(nodes, labelled, ""))
		r.after(time.Second)
		r.reports("node labelled", one+"!TakenByOther", "b: E1@/dev/bus/usb/001/001")

		must(t, r.hsm.HsmV1alpha1().HSMDevices("hsm-system").Delete(t.Context(), "b", metav1.DeleteOptions{}))
		r.after(time.Second)
		r.reports("HSMDevice deleted", one)
		if got := r.writes(); got > 6 {
			t.Errorf("%d writes", got)
		}
	})
}

func TestWriteIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		r := newRig(t, nil, func(r *rig) {
			for _, verb := range []string{"patch", "get"} {
				r.metadata.PrependReactor(verb, "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
					return away.Load(), nil, errors.New("connection refused")
				})
			}
		}, autoPico)
		defer r.stop()
		r.after(10 * time.Minute)
		if got := r.writes(); got != 0 {
			t.Errorf("%d writes to a pod that could not be read", got)
		}
		away.Store(false)
		r.after(time.Minute)
		r.reports("the API is back", one)

		away.Store(true)
		must(t, r.tree.Plug(pico(2, "E2")))
		before := r.writes()
		r.after(time.Hour)
		if tries := r.writes() - before; tries < 100 || tries > 200 {
			t.Errorf("%d tries in an hour", tries)
		}
		away.Store(false)
		r.after(40 * time.Second)
		r.reports("the API is back again", two)
	})
}

// TestRestart: a container that starts again on its pod does not repeat a fresh report,
// and knows which tokens were in service.
func TestRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limited := hsmDevice("a", v1alpha1.HSMDeviceSpec{Discovery: auto, MaxDevices: 1})
		r := newRig(t, nil, nil, limited)
		must(t, r.tree.Plug(pico(2, "E0")))
		must(t, r.tree.Unplug("1-1"))
		r.after(time.Minute)
		must(t, r.tree.Plug(pico(1, "E1")))
		must(t, r.tree.Unplug("1-2"))
		r.after(time.Minute)
		r.reports("before", one)
		r.stop()
		pod, err := r.metadata.Resource(pods).Namespace("hsm-system").Get(t.Context(), "discovery-abcde", metav1.GetOptions{})
		must(t, err)

		r = newRig(t, pod.Annotations, nil, limited)
		defer r.stop()
		r.after(time.Second)
		if got := r.writes(); got != 0 {
			t.Errorf("%d writes of a report that is fresh", got)
		}
		must(t, r.tree.Plug(pico(2, "E0")))
		r.kernel <- nil
		r.after(time.Second)
		r.reports("a token that would sort first", one+" E0@/dev/bus/usb/001/002!OverMaxDevices")
	})
}

func TestUnreadableReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]string{report.Annotation: "not JSON"}, nil, autoPico)
		defer r.stop()
		r.after(time.Second)
		r.reports("overwritten", one)
	})
}

// TestHealthy: discovery that hangs is ill, discovery that waits for the API is not.
func TestHealthy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var away, hang atomic.Bool
		away.Store(true)
		end := make(chan struct{})
		r := newRig(t, nil, func(r *rig) {
			r.metadata.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				return away.Load(), nil, errors.New("connection refused")
			})
			r.metadata.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				if hang.Load() {
					<-end
				}
				return false, nil, nil
			})
		}, autoPico)
		defer r.stop()
		healthy := func(what string, want bool) {
			t.Helper()
			r.after(time.Hour)
			if err := r.discovery.Healthy(); (err == nil) != want {
				t.Errorf("%s: %v", what, err)
			}
		}
		healthy("the API is away", true)
		away.Store(false)
		healthy("the API is there", true)
		hang.Store(true)
		healthy("a write hangs", false)
		hang.Store(false)
		close(end)
		healthy("it hangs no more", true)
	})
}

func TestPodIsMissing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		scheme := metadatafake.NewTestScheme()
		must(t, metav1.AddMetaToScheme(scheme))
		err := discovery.New(discovery.Config{
			Matcher:      newMatcher(t, newTree(t).Host),
			PodNamespace: "hsm-system",
			PodName:      "no-such-pod",
			HSM:          hsmfake.NewSimpleClientset(),
			Metadata:     metadatafake.NewSimpleMetadataClient(scheme),
			Metrics:      discovery.NewMetrics(prometheus.NewRegistry()),
			Listen:       func() (discovery.Source, error) { return nil, errors.New("protocol not supported") },
		}).Run(t.Context())
		if !apierrors.IsNotFound(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestValidate(t *testing.T) {
	t.Parallel()
	options := discovery.NewOptions()
	options.RescanInterval = 0
	err := options.Validate()
	for _, flag := range []string{"--node-name", "--pod-name", "--pod-namespace", "--rescan-interval"} {
		if err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s is not asked for: %v", flag, err)
		}
	}
	options.NodeName, options.PodName, options.PodNamespace, options.RescanInterval = "n", "p", "s", time.Second
	if err := options.Validate(); err != nil {
		t.Error(err)
	}
}
