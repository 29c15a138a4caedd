// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"google.golang.org/grpc/codes"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// maxRandomBytes is what the protocol allows at a time.
const maxRandomBytes = 1024

// deviceService serves the token as a device.
type deviceService struct {
	agentv1.UnimplementedDeviceServer
	state     *state
	queue     *queue
	adoptions chan<- *adoption
	stopping  <-chan struct{}
}

// Info implements the Device service.
func (s *deviceService) Info(context.Context, *agentv1.InfoRequest) (*agentv1.InfoResponse, error) {
	t, _ := s.state.identity()
	if t == nil {
		condition, _ := s.state.now()
		return nil, agentv1.NewError(codes.Unavailable, agentv1.Reason_REASON_TOKEN_ABSENT, "no token is seen: %s", condition.message)
	}
	return &agentv1.InfoResponse{
		Manufacturer: t.Manufacturer, Model: t.Model, Serial: t.Serial, Label: t.Label,
		FirmwareVersion: t.FirmwareVersion, HardwareVersion: t.HardwareVersion,
	}, nil
}

// Random implements the Device service.
func (s *deviceService) Random(ctx context.Context, in *agentv1.RandomRequest) (*agentv1.RandomResponse, error) {
	length := int(in.GetLength())
	if length < 1 || length > maxRandomBytes {
		return nil, invalidError("random bytes come 1 to %d at a time, not %d", maxRandomBytes, length)
	}
	var data []byte
	err := s.queue.do(ctx, callTask(func(w *worker) error {
		return w.read(func() (err error) {
			data, err = w.connection.session.Random(length)
			return err
		})
	}), abandoned)
	if err != nil {
		return nil, err
	}
	return &agentv1.RandomResponse{Data: data}, nil
}

// Legacy implements the Device service.
func (s *deviceService) Legacy(ctx context.Context, _ *agentv1.LegacyRequest) (*agentv1.LegacyResponse, error) {
	out := &agentv1.LegacyResponse{}
	err := s.queue.do(ctx, callTask(func(w *worker) error {
		out.Secrets = nil
		for _, l := range w.connection.store.Legacy() {
			out.Secrets = append(out.Secrets, &agentv1.LegacySecret{Name: l.Name, Keys: l.Keys, HasMetadata: l.Metadata})
		}
		return nil
	}), abandoned)
	if err != nil {
		return nil, err
	}
	return out, nil
}
