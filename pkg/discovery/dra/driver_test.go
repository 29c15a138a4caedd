// SPDX-License-Identifier: Apache-2.0

package dra_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	healthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
	cdi "tags.cncf.io/container-device-interface/specs-go"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/allocatable"
	"j5t.io/hsm/pkg/discovery/dra"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/discovery/dra/dratest"
	"j5t.io/hsm/pkg/discovery/sysfs"
	"j5t.io/hsm/test/framework/await"
)

const node = "node-1"

var (
	began     = time.Date(2026, 11, 24, 11, 22, 33, 0, time.UTC)
	hsmDevice = types.NamespacedName{Namespace: "hsm-system", Name: "pico"}
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a driver on a made-up cluster, with kubelet's side of it.
type rig struct {
	t      *testing.T
	client *fake.Clientset
	config dra.Config
	driver *dra.Driver
	kill   func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	// Paths of sockets are short: t.TempDir has the name of the test in it.
	dir, err := os.MkdirTemp("", "dra")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Mkdir(filepath.Join(dir, "plugins_registry"), 0o750))
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, UID: "1"}})
	var slices atomic.Int32
	client.PrependReactor("create", "resourceslices", func(action clienttesting.Action) (bool, runtime.Object, error) {
		// The made-up cluster does not make names.
		slice := action.(clienttesting.CreateAction).GetObject().(*resourcev1.ResourceSlice)
		slice.Name = fmt.Sprint(slice.GenerateName, slices.Add(1))
		return false, nil, nil
	})
	r := &rig{t: t, client: client, config: dra.Config{
		Node: node, Client: client, KubeletDir: dir, CDIDir: filepath.Join(dir, "cdi"), RescanInterval: 30 * time.Second,
	}}
	r.start()
	t.Cleanup(func() { r.kill() })
	return r
}

// start starts a driver that remembers nothing of an earlier one.
func (r *rig) start() {
	r.driver = dra.New(r.config)
	ctx, cancel := context.WithCancel(r.t.Context())
	var group sync.WaitGroup
	group.Go(func() { r.driver.Run(ctx) })
	r.kill = func() { cancel(); group.Wait() }
}

// look gives the driver a scan of the node, some time after the beginning.
func (r *rig) look(after time.Duration, tokens ...allocatable.Token) {
	r.driver.Update(r.t.Context(), allocatable.Scan{
		Tokens: tokens, Time: began.Add(after),
		HSMDevices: map[types.NamespacedName]allocatable.HSMDevice{hsmDevice: {GracePeriod: time.Minute}},
	})
}

func token(serial string, number int) allocatable.Token {
	return allocatable.Token{HSMDevice: hsmDevice, DeviceType: v1alpha1.DeviceTypePicoHSM, Device: sysfs.Device{
		Name: fmt.Sprint("1-", number), Path: fmt.Sprintf("/dev/bus/usb/001/%03d", number),
		VendorID: "2e8a", ProductID: "10fd", Release: "0602", Serial: serial,
	}}
}

func (r *rig) register() *dratest.Plugin {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Minute)
	defer cancel()
	plugin, err := dratest.Register(ctx, r.config.KubeletDir, attribute.Driver)
	must(r.t, err)
	r.t.Cleanup(plugin.Close)
	return plugin
}

// published fails unless the slices of the node say so, a line a device.
func (r *rig) published(what string, want ...string) {
	r.t.Helper()
	r.eventually(what, func() error {
		list, err := r.client.ResourceV1().ResourceSlices().List(r.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, slice := range list.Items {
			if slice.Spec.Driver != "hsm.j5t.io" || slice.Spec.Pool.Name != node || *slice.Spec.NodeName != node {
				return fmt.Errorf("got %v", slice.Spec)
			}
			for _, device := range slice.Spec.Devices {
				got = append(got, line(device))
			}
		}
		if len(list.Items) == 0 || !slices.Equal(got, want) {
			return fmt.Errorf("got %d slices with\n%s\nwant\n%s", len(list.Items), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
}

func line(device resourcev1.Device) string {
	words := []string{device.Name}
	for _, name := range slices.Sorted(maps.Keys(device.Attributes)) {
		words = append(words, string(name)+"="+*device.Attributes[name].StringValue)
	}
	for _, taint := range device.Taints {
		words = append(words, fmt.Sprint(taint.Key, ":", taint.Effect, "@", taint.TimeAdded.Sub(began)))
	}
	return strings.Join(words, " ")
}

func (r *rig) eventually(what string, condition func() error) {
	r.t.Helper()
	if err := await.Poll(r.t.Context(), time.Minute, func(context.Context) error { return condition() }); err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
}

// claim makes a claim that is allocated these devices of the node.
func (r *rig) claim(name string, devices ...string) *resourcev1.ResourceClaim {
	r.t.Helper()
	claim := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("8f1f63a5-9a0c-4f57-a3b0-" + name)},
		Status:     resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{}},
	}
	for _, device := range devices {
		claim.Status.Allocation.Devices.Results = append(claim.Status.Allocation.Devices.Results, resourcev1.DeviceRequestAllocationResult{
			Request: "token", Driver: attribute.Driver, Pool: node, Device: device,
		})
	}
	_, err := r.client.ResourceV1().ResourceClaims("default").Create(r.t.Context(), claim, metav1.CreateOptions{})
	must(r.t, err)
	return claim
}

// given resolves CDI devices to device files, as a container runtime does.
func (r *rig) given(cdiDevices []string) (paths []string) {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.config.CDIDir, "*.json"))
	must(r.t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		must(r.t, err)
		var spec cdi.Spec
		must(r.t, json.Unmarshal(content, &spec))
		if minimum, err := cdi.MinimumRequiredVersion(&spec); err != nil || minimum != spec.Version {
			r.t.Errorf("%s needs version %s of CDI: %v", content, minimum, err)
		}
		for _, device := range spec.Devices {
			if slices.Contains(cdiDevices, spec.Kind+"="+device.Name) {
				for _, file := range device.ContainerEdits.DeviceNodes {
					if file.Path != file.HostPath || file.Permissions != "rw" {
						r.t.Errorf("got %+v", file)
					}
					paths = append(paths, file.HostPath)
				}
			}
		}
	}
	return paths
}

const (
	e1   = "e1-22249aa61f"
	e2   = "e2-713a5bb2d1"
	rest = " deviceType=PicoHSM firmware=6.02 hsmDevice=hsm-system/pico product=10fd"
)

func published(name, serial string, number int) string {
	return fmt.Sprintf("%s%s serial=%s usbPath=1-%d vendor=2e8a", name, rest, serial, number)
}

// TestLife takes a token from its plug to the container, out, and in again.
func TestLife(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.look(0, token("E1", 1), token("E2", 2))
	r.published("both", published(e1, "E1", 1), published(e2, "E2", 2))
	plugin := r.register()

	one := r.claim("000000000001", e1)
	devices, err := plugin.Prepare(t.Context(), one)
	must(t, err)
	if got := r.given(devices); !slices.Equal(got, []string{"/dev/bus/usb/001/001"}) {
		t.Errorf("the claim gives %q by %q", got, devices)
	}
	again, err := plugin.Prepare(t.Context(), one)
	if err != nil || !slices.Equal(again, devices) {
		t.Errorf("prepared again as %q, not %q: %v", again, devices, err)
	}
	if _, err := plugin.Prepare(t.Context(), r.claim("000000000002", e2, e1)); err == nil || !strings.Contains(err.Error(), string(one.UID)) {
		t.Errorf("a device that is in use: %v", err)
	}

	r.look(time.Second, token("E2", 2))
	r.published("one is unplugged", published(e1, "E1", 1)+" hsm.j5t.io/unusable:NoExecute@1s", published(e2, "E2", 2))
	if _, err := plugin.Prepare(t.Context(), one); err == nil || !strings.Contains(err.Error(), "unplugged") {
		t.Errorf("a device that was unplugged: %v", err)
	}
	// The container may be started again by the time it is back, elsewhere.
	r.look(2*time.Second, token("E1", 9), token("E2", 2))
	r.published("it is back elsewhere", published(e1, "E1", 9), published(e2, "E2", 2))
	if got := r.given(devices); !slices.Equal(got, []string{"/dev/bus/usb/001/009"}) {
		t.Errorf("the claim gives %q", got)
	}
	must(t, plugin.Unprepare(t.Context(), one))
	must(t, plugin.Unprepare(t.Context(), one))
	if got := r.given(devices); len(got) > 0 {
		t.Errorf("the claim gives %q still", got)
	}

	r.look(3*time.Second, token("E1", 9))
	r.look(63*time.Second, token("E1", 9))
	r.published("the grace period", published(e1, "E1", 9), published(e2, "E2", 2)+" hsm.j5t.io/unusable:NoExecute@3s")
	r.look(64*time.Second, token("E1", 9))
	r.published("it is over", published(e1, "E1", 9))
	r.look(65 * time.Second)
	r.look(126 * time.Second)
	r.published("no token")
}

// TestRestart: what was published and prepared is so after a restart, and what happened
// meanwhile is seen.
func TestRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.look(0, token("E1", 1), token("E2", 2))
	plugin := r.register()
	one := r.claim("000000000001", e1)
	devices, err := plugin.Prepare(t.Context(), one)
	must(t, err)
	r.look(time.Second, token("E1", 1))
	r.published("before", published(e1, "E1", 1), published(e2, "E2", 2)+" hsm.j5t.io/unusable:NoExecute@1s")
	r.kill()

	r.start()
	r.driver.Update(t.Context(), allocatable.Scan{Time: began.Add(30 * time.Second), HSMDevices: map[types.NamespacedName]allocatable.HSMDevice{hsmDevice: {Unknown: true}}})
	plugin = r.register()
	r.published("nothing is known of the node", published(e1, "E1", 1), published(e2, "E2", 2)+" hsm.j5t.io/unusable:NoExecute@1s")
	if _, err := plugin.Prepare(t.Context(), one); err == nil {
		t.Error("prepared a device whose place is not known")
	}
	r.look(31*time.Second, token("E1", 7))
	r.published("after", published(e1, "E1", 7), published(e2, "E2", 2)+" hsm.j5t.io/unusable:NoExecute@1s")
	if got := r.given(devices); !slices.Equal(got, []string{"/dev/bus/usb/001/007"}) {
		t.Errorf("the claim gives %q", got)
	}
	if _, err := plugin.Prepare(t.Context(), r.claim("000000000002", e1)); err == nil || !strings.Contains(err.Error(), string(one.UID)) {
		t.Errorf("a device that is in use: %v", err)
	}
	r.kill()

	// E1 is pulled while nobody looks.
	r.start()
	r.look(40 * time.Second)
	plugin = r.register()
	r.published("unplugged meanwhile", published(e1, "E1", 7)+" hsm.j5t.io/unusable:NoExecute@40s", published(e2, "E2", 2)+" hsm.j5t.io/unusable:NoExecute@1s")
	must(t, plugin.Unprepare(t.Context(), one))
	if got := r.given(devices); len(got) > 0 {
		t.Errorf("the claim gives %q still", got)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.look(0, token("E1", 1))
	plugin := r.register()
	for name, change := range map[string]func(*resourcev1.ResourceClaim){
		"not on this node": func(c *resourcev1.ResourceClaim) { c.Status.Allocation.Devices.Results[0].Pool = "node-2" },
		"has no device":    func(c *resourcev1.ResourceClaim) { c.Status.Allocation.Devices.Results[0].Device = "../../e1" },
		"no parameters": func(c *resourcev1.ResourceClaim) {
			c.Status.Allocation.Devices.Config = []resourcev1.DeviceAllocationConfiguration{{DeviceConfiguration: resourcev1.DeviceConfiguration{
				Opaque: &resourcev1.OpaqueDeviceConfiguration{Driver: attribute.Driver},
			}}}
		},
		"not the uid": func(c *resourcev1.ResourceClaim) { c.UID = "../../../etc/cron.d/x" },
	} {
		claim := r.claim(strings.ReplaceAll(name, " ", "-"), e1)
		change(claim)
		must(t, r.client.Tracker().Update(resourcev1.SchemeGroupVersion.WithResource("resourceclaims"), claim, claim.Namespace))
		if devices, err := plugin.Prepare(t.Context(), claim); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %q, %v", name, devices, err)
		}
	}
	if err := plugin.Unprepare(t.Context(), &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{UID: "../x"}}); err == nil {
		t.Error("unprepared a claim whose uid is a path")
	}
	// What else lies in the folder is not ours, or broken.
	must(t, os.WriteFile(filepath.Join(r.config.CDIDir, "hsm.j5t.io-token_1.json"), []byte("{"), 0o600))
	must(t, os.WriteFile(filepath.Join(r.config.CDIDir, "other.json"), []byte("{"), 0o600))
	claim := r.claim("whole", e1)
	if _, err := plugin.Prepare(t.Context(), claim); err != nil {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.look(0, token("E1", 1))
	stream, err := r.register().Health(t.Context())
	must(t, err)
	expect := func(want healthv1.HealthStatus) {
		t.Helper()
		report, err := stream.Recv()
		must(t, err)
		if len(report.Devices) != 1 || report.Devices[0].Device.DeviceName != e1 || report.Devices[0].Health != want || report.Devices[0].HealthCheckTimeoutSeconds != 90 {
			t.Errorf("got %v, want %v", report, want)
		}
	}
	expect(healthv1.HealthStatus_HEALTHY)
	r.look(time.Second)
	expect(healthv1.HealthStatus_UNHEALTHY)
	r.look(2*time.Second, token("E1", 2))
	expect(healthv1.HealthStatus_HEALTHY)
	r.look(3*time.Second, token("E1", 2))
	expect(healthv1.HealthStatus_HEALTHY)
}

// TestWithoutTaints: a cluster that drops taints is not offered a token that is gone.
func TestWithoutTaints(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.look(0, token("E1", 1), token("E2", 2))
	r.register()
	r.look(time.Second, token("E2", 2))
	r.published("tainted", published(e1, "E1", 1)+" hsm.j5t.io/unusable:NoExecute@1s", published(e2, "E2", 2))
	desired := &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Devices: []resourcev1.Device{{Taints: []resourcev1.DeviceTaint{{}}}}}}
	r.driver.HandleError(t.Context(), &resourceslice.DroppedFieldsError{
		DesiredSlice: desired, ActualSlice: &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Devices: []resourcev1.Device{{}}}},
	}, "publish")
	r.published("left out", published(e2, "E2", 2))
}

// TestMany: more devices than a slice has room for, and a serial number of every length.
func TestMany(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var tokens []allocatable.Token
	for i := range 126 {
		tokens = append(tokens, token(strings.Repeat(`"`, i+1), i))
	}
	r.look(0, tokens...)
	r.eventually("all are published", func() error {
		list, err := r.client.ResourceV1().ResourceSlices().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		count := 0
		for _, slice := range list.Items {
			count += len(slice.Spec.Devices)
			if len(slice.Spec.Devices) > resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures {
				return fmt.Errorf("a slice has %d devices", len(slice.Spec.Devices))
			}
		}
		if count != 126 {
			return fmt.Errorf("%d devices", count)
		}
		return nil
	})
}
