// SPDX-License-Identifier: Apache-2.0

package deviceplugin_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	pluginv1beta1 "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/deviceplugin"
	"j5t.io/hsm/pkg/discovery/inventory"
	"j5t.io/hsm/pkg/discovery/sysfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kubelet is its side of device plugins.
type kubelet struct {
	pluginv1beta1.UnsafeRegistrationServer

	dir        string
	registered chan *pluginv1beta1.RegisterRequest
	server     *grpc.Server
}

// startKubelet starts one as after a reboot: it removes what sockets there are.
func startKubelet(t *testing.T, dir string) *kubelet {
	t.Helper()
	sockets, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	for _, socket := range sockets {
		if err := os.Remove(socket); !errors.Is(err, fs.ErrNotExist) { // Its plugin may end just now.
			must(t, err)
		}
	}
	k := &kubelet{dir: dir, registered: make(chan *pluginv1beta1.RegisterRequest, 10), server: grpc.NewServer()}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "kubelet.sock"))
	must(t, err)
	pluginv1beta1.RegisterRegistrationServer(k.server, k)
	var group sync.WaitGroup
	group.Go(func() {
		if err := k.server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { k.server.Stop(); group.Wait() })
	return k
}

func (k *kubelet) Register(_ context.Context, request *pluginv1beta1.RegisterRequest) (*pluginv1beta1.Empty, error) {
	k.registered <- request
	return &pluginv1beta1.Empty{}, nil
}

// plugin is a device plugin that kubelet watches.
type plugin struct {
	pluginv1beta1.DevicePluginClient
	watch grpc.ServerStreamingClient[pluginv1beta1.ListAndWatchResponse]
	// close ends the connection, as kubelet's end does.
	close func()
}

// plugin waits for the registration of a resource.
func (k *kubelet) plugin(t *testing.T, resource string) *plugin {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-ctx.Done():
		t.Fatalf("%s does not register", resource)
		return nil
	case request := <-k.registered:
		if request.ResourceName != resource || request.Version != pluginv1beta1.Version {
			t.Fatalf("got %v, want %s", request, resource)
		}
		connection, err := grpc.NewClient("unix://"+filepath.Join(k.dir, request.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
		must(t, err)
		t.Cleanup(func() { _ = connection.Close() })
		p := &plugin{DevicePluginClient: pluginv1beta1.NewDevicePluginClient(connection), close: func() { _ = connection.Close() }}
		options, err := p.GetDevicePluginOptions(t.Context(), &pluginv1beta1.Empty{})
		must(t, err)
		if options.PreStartRequired || options.GetPreferredAllocationAvailable {
			t.Errorf("options %v", options)
		}
		p.watch, err = p.ListAndWatch(t.Context(), &pluginv1beta1.Empty{})
		must(t, err)
		return p
	}
}

func (p *plugin) lists(t *testing.T, want ...string) {
	t.Helper()
	list, err := p.watch.Recv()
	must(t, err)
	var got []string
	for _, device := range list.Devices {
		got = append(got, device.ID+" "+device.Health)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func (p *plugin) allocate(t *testing.T, ids ...string) ([]string, error) {
	t.Helper()
	response, err := p.Allocate(t.Context(), &pluginv1beta1.AllocateRequest{ContainerRequests: []*pluginv1beta1.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, file := range response.ContainerResponses[0].Devices {
		if file.ContainerPath != file.HostPath || file.Permissions != "rw" {
			t.Errorf("got %v", file)
		}
		paths = append(paths, file.HostPath)
	}
	return paths, nil
}

func token(deviceType v1alpha1.DeviceType, serial string, number int) inventory.Token {
	return inventory.Token{DeviceType: deviceType, Device: sysfs.Device{Path: fmt.Sprintf("/dev/bus/usb/001/%03d", number), Serial: serial}}
}

const (
	e1 = "e1-22249aa61f"
	e2 = "e2-713a5bb2d1"
)

func TestManager(t *testing.T) {
	t.Parallel()
	// Paths of sockets are short: t.TempDir has the name of the test in it.
	dir, err := os.MkdirTemp("", "plugin")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	manager := deviceplugin.New(dir)
	began := time.Date(2026, 11, 24, 11, 22, 33, 0, time.UTC)
	look := func(after time.Duration, tokens ...inventory.Token) {
		manager.Update(t.Context(), inventory.Found{Tokens: tokens, Time: began.Add(after), HSMDevices: map[types.NamespacedName]inventory.HSMDevice{{}: {GracePeriod: time.Minute}}})
	}
	const pico = v1alpha1.DeviceTypePicoHSM
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { manager.Run(ctx) })
	t.Cleanup(func() { cancel(); group.Wait() })

	// Kubelet may be there later than the plugin.
	look(0, token(pico, "E1", 1))
	first := startKubelet(t, dir)
	picos := first.plugin(t, "hsm.j5t.io/pico")
	picos.lists(t, e1+" Healthy")
	look(time.Second, token(pico, "E1", 1), token(pico, "E2", 2))
	picos.lists(t, e1+" Healthy", e2+" Healthy")
	if got, err := picos.allocate(t, e2, e1); err != nil || !slices.Equal(got, []string{"/dev/bus/usb/001/002", "/dev/bus/usb/001/001"}) {
		t.Errorf("got %q, %v", got, err)
	}
	look(2*time.Second, token(pico, "E1", 1))
	picos.lists(t, e1+" Healthy", e2+" Unhealthy")
	for _, id := range []string{e2, "other", ""} {
		if got, err := picos.allocate(t, id); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%q gives %q, %v", id, got, err)
		}
	}
	look(3*time.Second, token(pico, "E1", 1), token(pico, "E2", 9))
	picos.lists(t, e1+" Healthy", e2+" Healthy")
	if got, err := picos.allocate(t, e2); err != nil || !slices.Equal(got, []string{"/dev/bus/usb/001/009"}) {
		t.Errorf("got %q, %v", got, err)
	}

	// Another type of token is another resource.
	look(4*time.Second, token(pico, "E1", 1), token(v1alpha1.DeviceTypeSmartCardHSM, "E2", 9))
	picos.lists(t, e1+" Healthy")
	cards := first.plugin(t, "hsm.j5t.io/smartcard-hsm")
	cards.lists(t, e2+" Healthy")
	if got, err := picos.allocate(t, e2); err == nil {
		t.Errorf("a token of another type gives %q", got)
	}
	look(5*time.Second, token(pico, "E1", 1))
	cards.lists(t, e2+" Unhealthy")
	look(66*time.Second, token(pico, "E1", 1))
	cards.lists(t)
	look(67*time.Second, token(pico, "E1", 1), token(v1alpha1.DeviceTypeSmartCardHSM, "E2", 9))
	cards.lists(t, e2+" Healthy")

	// Kubelet starts again, which knows no plugin.
	first.server.Stop()
	cards.close()
	picos.close()
	second := startKubelet(t, dir)
	resources := []string{(<-second.registered).ResourceName, (<-second.registered).ResourceName}
	slices.Sort(resources)
	if !slices.Equal(resources, []string{"hsm.j5t.io/pico", "hsm.j5t.io/smartcard-hsm"}) {
		t.Errorf("registered are %q", resources)
	}
}
