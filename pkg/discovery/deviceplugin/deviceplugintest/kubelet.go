// SPDX-License-Identifier: Apache-2.0

// Package deviceplugintest is kubelet's side of device plugins, for tests: it takes
// registrations, hears of devices, and asks for the device files that a container is given.
// It decides nothing, and keeps no account.
package deviceplugintest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginv1beta1 "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Folder is that of device plugins in kubelet's own.
const Folder = "device-plugins"

// Kubelet takes registrations.
type Kubelet struct {
	pluginv1beta1.UnsafeRegistrationServer

	dir     string
	plugins chan *Plugin
	server  *grpc.Server
}

// Start listens in the folder, as kubelet does when it starts: it removes what sockets there
// are, and with that all registrations.
func Start(dir string) (*Kubelet, error) {
	sockets, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil, err
	}
	for _, socket := range sockets {
		if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "unix", filepath.Join(dir, "kubelet.sock"))
	if err != nil {
		return nil, err
	}
	k := &Kubelet{dir: dir, plugins: make(chan *Plugin), server: grpc.NewServer()}
	pluginv1beta1.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(listener) //nolint:errcheck // it ends by Stop only
	return k, nil
}

// Stop ends the registrations. Those who have taken plugins close them.
func (k *Kubelet) Stop() { k.server.Stop() }

// Plugins are those that register.
func (k *Kubelet) Plugins() <-chan *Plugin { return k.plugins }

// Register implements the Registration service.
func (k *Kubelet) Register(ctx context.Context, request *pluginv1beta1.RegisterRequest) (*pluginv1beta1.Empty, error) {
	if request.Version != pluginv1beta1.Version {
		return nil, fmt.Errorf("version %q is not known", request.Version)
	}
	plugin, err := k.connect(ctx, request)
	if err != nil {
		return nil, err
	}
	select {
	case k.plugins <- plugin:
		return &pluginv1beta1.Empty{}, nil
	case <-ctx.Done():
		plugin.Close()
		return nil, ctx.Err()
	}
}

func (k *Kubelet) connect(ctx context.Context, request *pluginv1beta1.RegisterRequest) (*Plugin, error) {
	connection, err := grpc.NewClient("unix://"+filepath.Join(k.dir, request.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	p := &Plugin{
		Resource: request.ResourceName,
		Close:    func() { _ = connection.Close() },
		client:   pluginv1beta1.NewDevicePluginClient(connection),
	}
	options, err := p.client.GetDevicePluginOptions(ctx, &pluginv1beta1.Empty{})
	if err == nil && (options.PreStartRequired || options.GetPreferredAllocationAvailable) {
		err = fmt.Errorf("options %v cannot be honoured", options)
	}
	if err == nil { // The watch outlives the registration.
		p.watch, err = p.client.ListAndWatch(context.WithoutCancel(ctx), &pluginv1beta1.Empty{})
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Plugin is a plugin that has registered, and is watched.
type Plugin struct {
	Resource string
	// Close ends the connection, as kubelet's end does.
	Close  func()
	client pluginv1beta1.DevicePluginClient
	watch  grpc.ServerStreamingClient[pluginv1beta1.ListAndWatchResponse]
}

// Next waits for the next list of devices: whether each is healthy, by its id.
func (p *Plugin) Next() (map[string]bool, error) {
	list, err := p.watch.Recv()
	if err != nil {
		return nil, err
	}
	devices := map[string]bool{}
	for _, device := range list.Devices {
		devices[device.ID] = device.Health == pluginv1beta1.Healthy
	}
	return devices, nil
}

// Allocate returns the device files that a container is given with these devices.
func (p *Plugin) Allocate(ctx context.Context, ids ...string) ([]string, error) {
	response, err := p.client.Allocate(ctx, &pluginv1beta1.AllocateRequest{ContainerRequests: []*pluginv1beta1.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return nil, err
	}
	if len(response.ContainerResponses) != 1 {
		return nil, fmt.Errorf("%d answers for one container", len(response.ContainerResponses))
	}
	var paths []string
	for _, file := range response.ContainerResponses[0].Devices {
		if file.ContainerPath != file.HostPath || file.Permissions != "rw" {
			return nil, fmt.Errorf("the container is given %v", file)
		}
		paths = append(paths, file.HostPath)
	}
	slices.Sort(paths)
	return paths, nil
}
