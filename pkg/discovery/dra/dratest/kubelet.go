// SPDX-License-Identifier: Apache-2.0

// Package dratest is kubelet's side of Dynamic Resource Allocation: it finds a driver by
// its registration socket, and asks it to prepare claims. It owns connections only. It
// runs no pod, and starts no container.
package dratest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	resourcev1 "k8s.io/api/resource/v1"
	healthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// pollInterval is how often a socket is looked for that is not there yet.
const pollInterval = 50 * time.Millisecond

// Plugin is a driver that has been registered.
type Plugin struct {
	driver     string
	connection *grpc.ClientConn
}

// Register waits for a driver's registration socket below kubelet's folder, and registers
// it as kubelet does.
func Register(ctx context.Context, kubeletDir, driver string) (*Plugin, error) {
	for {
		plugin, err := register(ctx, kubeletDir, driver)
		if err == nil {
			return plugin, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("register %s: %w", driver, err)
		case <-time.After(pollInterval):
		}
	}
}

func register(ctx context.Context, kubeletDir, driver string) (*Plugin, error) {
	connection, err := dial(filepath.Join(kubeletDir, "plugins_registry", driver+"-reg.sock"))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	registration := registrationv1.NewRegistrationClient(connection)
	info, err := registration.GetInfo(ctx, &registrationv1.InfoRequest{})
	if err != nil {
		return nil, err
	}
	if info.Type != registrationv1.DRAPlugin || info.Name != driver || !slices.Contains(info.SupportedVersions, drav1.DRAPluginService) {
		return nil, fmt.Errorf("the socket is that of %v", info)
	}
	plugin := &Plugin{driver: driver}
	if plugin.connection, err = dial(info.Endpoint); err != nil {
		return nil, err
	}
	if _, err := registration.NotifyRegistrationStatus(ctx, &registrationv1.RegistrationStatus{PluginRegistered: true}); err != nil {
		plugin.Close()
		return nil, err
	}
	return plugin, nil
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Close ends the connection.
func (p *Plugin) Close() { _ = p.connection.Close() }

// Prepare prepares a claim that is allocated, and returns the CDI devices that the
// container runtime is to be told of.
func (p *Plugin) Prepare(ctx context.Context, claim *resourcev1.ResourceClaim) (cdiDevices []string, err error) {
	uid := string(claim.UID)
	response, err := drav1.NewDRAPluginClient(p.connection).NodePrepareResources(ctx, &drav1.NodePrepareResourcesRequest{
		Claims: []*drav1.Claim{{Namespace: claim.Namespace, Name: claim.Name, Uid: uid}},
	})
	if err != nil {
		return nil, err
	}
	result := response.Claims[uid]
	if result.GetError() != "" {
		return nil, errors.New(result.GetError())
	}
	for _, device := range result.GetDevices() {
		cdiDevices = append(cdiDevices, device.CdiDeviceIds...)
	}
	return cdiDevices, nil
}

// Unprepare undoes Prepare. The claim need not exist any more.
func (p *Plugin) Unprepare(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	uid := string(claim.UID)
	response, err := drav1.NewDRAPluginClient(p.connection).NodeUnprepareResources(ctx, &drav1.NodeUnprepareResourcesRequest{
		Claims: []*drav1.Claim{{Namespace: claim.Namespace, Name: claim.Name, Uid: uid}},
	})
	if err != nil {
		return err
	}
	if result, known := response.Claims[uid]; !known || result.Error != "" {
		return fmt.Errorf("unprepare claim %s: %v", uid, result)
	}
	return nil
}

// Health watches the health of devices.
func (p *Plugin) Health(ctx context.Context) (grpc.ServerStreamingClient[healthv1.NodeWatchResourcesResponse], error) {
	return healthv1.NewDRAResourceHealthClient(p.connection).NodeWatchResources(ctx, &healthv1.NodeWatchResourcesRequest{})
}
