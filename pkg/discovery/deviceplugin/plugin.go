// SPDX-License-Identifier: Apache-2.0

package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	pluginv1beta1 "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"j5t.io/hsm/pkg/discovery/dra/attribute"
)

const (
	registerTimeout = 5 * time.Second
	// watchTimeout is how long kubelet may take from the registration to watch devices.
	watchTimeout = 10 * time.Second
)

// plugin is the device plugin of one token, which is one resource with one device.
type plugin struct {
	pluginv1beta1.UnsafeDevicePluginServer

	manager *Manager
	// name is that of the device.
	name string
	// watching has a token when kubelet begins to watch, ended when it ends.
	watching, ended chan struct{}
}

// run serves kubelet until the context ends. When kubelet starts, it removes all sockets and
// knows no plugin: its watch ends, and the plugin registers again.
func (p *plugin) run(ctx context.Context) {
	logger := klog.FromContext(ctx).WithValues("resource", p.resource())
	newBackoff := func() wait.Backoff {
		return wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 6, Cap: 5 * time.Second}
	}
	backoff := newBackoff()
	for {
		watched, err := p.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if watched {
			backoff = newBackoff()
		}
		logger.Info("Kubelet does not watch the token; will register again", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff.Step()):
		}
	}
}

func (p *plugin) resource() string { return attribute.ResourceName(p.name) }

// serve registers with kubelet and serves it until its watch ends.
func (p *plugin) serve(ctx context.Context) (watched bool, err error) {
	p.watching, p.ended = make(chan struct{}, 1), make(chan struct{}, 1)
	// It has to be short: with its folder, a socket's path has at most 107 characters.
	socket := filepath.Join(p.manager.dir, "hsm-"+p.name+".sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove the last socket: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return false, fmt.Errorf("listen for kubelet: %w", err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	pluginv1beta1.RegisterDevicePluginServer(server, p)
	go server.Serve(listener) //nolint:errcheck // it ends by Stop only
	defer server.Stop()
	if err := p.register(ctx, filepath.Base(socket)); err != nil {
		return false, err
	}
	select {
	case <-p.watching:
	case <-time.After(watchTimeout):
		return false, errors.New("kubelet accepted the registration, but does not watch the device")
	case <-ctx.Done():
		return false, ctx.Err()
	}
	klog.FromContext(ctx).Info("Kubelet watches the token", "resource", p.resource())
	select {
	case <-p.ended:
		return true, errors.New("kubelet does not watch the device any more")
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

func (p *plugin) register(ctx context.Context, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+filepath.Join(p.manager.dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("reach kubelet: %w", err)
	}
	defer connection.Close()
	if _, err := pluginv1beta1.NewRegistrationClient(connection).Register(ctx, &pluginv1beta1.RegisterRequest{
		Version:      pluginv1beta1.Version,
		Endpoint:     endpoint,
		ResourceName: p.resource(),
		Options:      &pluginv1beta1.DevicePluginOptions{},
	}); err != nil {
		return fmt.Errorf("register with kubelet: %w", err)
	}
	return nil
}

// ListAndWatch implements the DevicePlugin service: the one device, whenever it changes.
func (p *plugin) ListAndWatch(_ *pluginv1beta1.Empty, stream grpc.ServerStreamingServer[pluginv1beta1.ListAndWatchResponse]) error {
	signal(p.watching)
	defer signal(p.ended)
	var sent *pluginv1beta1.ListAndWatchResponse
	for {
		device, known, changed := p.manager.device(p.name)
		list := &pluginv1beta1.ListAndWatchResponse{}
		if known {
			health := pluginv1beta1.Healthy
			if device.Path == "" {
				health = pluginv1beta1.Unhealthy
			}
			list.Devices = []*pluginv1beta1.Device{{ID: device.Name, Health: health}}
		}
		if sent == nil || !proto.Equal(sent, list) {
			if err := stream.Send(list); err != nil {
				return err
			}
			sent = list
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// signal says once that something has happened.
func signal(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// Allocate implements the DevicePlugin service: the device file of the token, where it is
// now.
func (p *plugin) Allocate(_ context.Context, request *pluginv1beta1.AllocateRequest) (*pluginv1beta1.AllocateResponse, error) {
	device, _, _ := p.manager.device(p.name)
	response := &pluginv1beta1.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		for _, id := range container.DevicesIds {
			if id != p.name || device.Path == "" {
				return nil, status.Errorf(codes.FailedPrecondition, "device %q cannot be used now: the token was unplugged, or discovery's report has another reason", id)
			}
		}
		response.ContainerResponses = append(response.ContainerResponses, &pluginv1beta1.ContainerAllocateResponse{
			Devices: []*pluginv1beta1.DeviceSpec{{ContainerPath: device.Path, HostPath: device.Path, Permissions: "rw"}},
		})
	}
	return response, nil
}

// GetDevicePluginOptions implements the DevicePlugin service: none of its options.
func (p *plugin) GetDevicePluginOptions(context.Context, *pluginv1beta1.Empty) (*pluginv1beta1.DevicePluginOptions, error) {
	return &pluginv1beta1.DevicePluginOptions{}, nil
}

// GetPreferredAllocation implements the DevicePlugin service. Kubelet is told not to call it.
func (p *plugin) GetPreferredAllocation(context.Context, *pluginv1beta1.PreferredAllocationRequest) (*pluginv1beta1.PreferredAllocationResponse, error) {
	return &pluginv1beta1.PreferredAllocationResponse{}, nil
}

// PreStartContainer implements the DevicePlugin service. Kubelet is told not to call it.
func (p *plugin) PreStartContainer(context.Context, *pluginv1beta1.PreStartContainerRequest) (*pluginv1beta1.PreStartContainerResponse, error) {
	return &pluginv1beta1.PreStartContainerResponse{}, nil
}
