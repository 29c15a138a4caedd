// SPDX-License-Identifier: Apache-2.0

package deviceplugin_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/allocatable"
	"j5t.io/hsm/pkg/discovery/deviceplugin"
	"j5t.io/hsm/pkg/discovery/deviceplugin/deviceplugintest"
	"j5t.io/hsm/pkg/discovery/sysfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a manager with a kubelet.
type rig struct {
	t       *testing.T
	dir     string
	manager *deviceplugin.Manager
	kubelet *deviceplugintest.Kubelet
	plugins map[string]*deviceplugintest.Plugin
}

// start starts a kubelet as after a reboot.
func (r *rig) start() {
	r.t.Helper()
	kubelet, err := deviceplugintest.Start(r.dir)
	must(r.t, err)
	r.kubelet, r.plugins = kubelet, map[string]*deviceplugintest.Plugin{}
	r.t.Cleanup(kubelet.Stop)
}

// stop ends it.
func (r *rig) stop() {
	r.kubelet.Stop()
	for _, plugin := range r.plugins {
		plugin.Close()
	}
}

// registers waits for the registrations of these resources.
func (r *rig) registers(resources ...string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Minute)
	defer cancel()
	for range resources {
		select {
		case <-ctx.Done():
			r.t.Fatalf("registered are %q, want %q", slices.Collect(maps.Keys(r.plugins)), resources)
		case plugin := <-r.kubelet.Plugins():
			if !slices.Contains(resources, plugin.Resource) || r.plugins[plugin.Resource] != nil {
				r.t.Fatalf("%s registers, want %q", plugin.Resource, resources)
			}
			r.plugins[plugin.Resource] = plugin
			r.t.Cleanup(plugin.Close)
		}
	}
}

// lists waits for the next list of a resource's devices.
func (r *rig) lists(resource string, want map[string]bool) {
	r.t.Helper()
	got, err := r.plugins[resource].Next()
	if err != nil || !maps.Equal(got, want) {
		r.t.Fatalf("%s lists %v, %v, want %v", resource, got, err, want)
	}
}

func (r *rig) allocates(resource, device, want string) {
	r.t.Helper()
	got, err := r.plugins[resource].Allocate(r.t.Context(), device)
	if err != nil || !slices.Equal(got, []string{want}) {
		r.t.Errorf("%s gives %q, %v, want %s", device, got, err, want)
	}
}

func (r *rig) refuses(resource string, devices ...string) {
	r.t.Helper()
	for _, device := range devices {
		if got, err := r.plugins[resource].Allocate(r.t.Context(), device); status.Code(err) != codes.FailedPrecondition {
			r.t.Errorf("%q gives %q, %v", device, got, err)
		}
	}
}

func token(serial string, number int) allocatable.Token {
	return allocatable.Token{DeviceType: v1alpha1.DeviceTypePicoHSM, Device: sysfs.Device{Path: fmt.Sprintf("/dev/bus/usb/001/%03d", number), Serial: serial}}
}

func TestManager(t *testing.T) {
	t.Parallel()
	// Paths of sockets are short: t.TempDir has the name of the test in it.
	dir, err := os.MkdirTemp("", "plugin")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	r := &rig{t: t, dir: dir, manager: deviceplugin.New(dir)}
	began := time.Date(2026, 11, 24, 11, 22, 33, 0, time.UTC)
	look := func(after time.Duration, tokens ...allocatable.Token) {
		r.manager.Update(t.Context(), allocatable.Scan{Tokens: tokens, Time: began.Add(after), HSMDevices: map[types.NamespacedName]allocatable.HSMDevice{{}: {GracePeriod: time.Minute}}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { r.manager.Run(ctx) })
	end := func() { cancel(); group.Wait() }
	t.Cleanup(end)
	const (
		e1, e2    = "e1-22249aa61f", "e2-713a5bb2d1"
		one, two  = "hsm.j5t.io/" + e1, "hsm.j5t.io/" + e2
		unhealthy = false
	)

	// Kubelet may be there later than the plugins.
	look(0, token("E1", 1))
	r.start()
	r.registers(one)
	r.lists(one, map[string]bool{e1: true})
	look(time.Second, token("E1", 1), token("E2", 2))
	r.registers(two)
	r.lists(two, map[string]bool{e2: true})
	// Each resource gives its own token, and no other.
	r.allocates(one, e1, "/dev/bus/usb/001/001")
	r.allocates(two, e2, "/dev/bus/usb/001/002")
	r.refuses(one, e2, "other", "")

	// Unplugged, and back at another place.
	look(2*time.Second, token("E1", 1))
	r.lists(two, map[string]bool{e2: unhealthy})
	r.refuses(two, e2)
	look(3*time.Second, token("E1", 1), token("E2", 9))
	r.lists(two, map[string]bool{e2: true})
	r.allocates(two, e2, "/dev/bus/usb/001/009")

	// Gone for longer than the grace period: the resource goes, and comes with the token.
	look(4*time.Second, token("E1", 1))
	r.lists(two, map[string]bool{e2: unhealthy})
	look(66*time.Second, token("E1", 1))
	for { // It may tell that it has no device any more.
		if devices, err := r.plugins[two].Next(); err != nil {
			break
		} else if len(devices) > 0 {
			t.Fatalf("lists %v", devices)
		}
	}
	delete(r.plugins, two)
	look(67*time.Second, token("E1", 1), token("E2", 3))
	r.registers(two)
	r.lists(two, map[string]bool{e2: true})
	r.allocates(two, e2, "/dev/bus/usb/001/003")

	// Kubelet starts again, which knows no plugin.
	r.stop()
	r.start()
	r.registers(one, two)
	r.lists(one, map[string]bool{e1: true})
	r.allocates(two, e2, "/dev/bus/usb/001/003")
	end()
	if _, err := os.Stat(filepath.Join(dir, "hsm-"+e2+".sock")); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}
