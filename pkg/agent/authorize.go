// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// forController are the calls by which the controller learns how an agent is.
// None of them gives or takes anything of a record.
var forController = map[string]bool{
	agentv1.Store_Status_FullMethodName:  true,
	agentv1.Device_Info_FullMethodName:   true,
	healthv1.Health_Check_FullMethodName: true,
	healthv1.Health_List_FullMethodName:  true,
	healthv1.Health_Watch_FullMethodName: true,
}

// authorize decides by the name in the client's certificate. That it is one of
// the authority's, and good for clients, package mtls has made sure of.
func authorize(ctx context.Context, method string) error {
	name := client(ctx)
	switch {
	case name == agentv1.ClientAPIServer, name == agentv1.ClientController && forController[method]:
		return nil
	case name == agentv1.ClientController:
		return agentv1.NewError(codes.PermissionDenied, agentv1.Reason_REASON_UNSPECIFIED,
			"client %q may ask how this agent is, and not call %s", name, method)
	}
	return agentv1.NewError(codes.PermissionDenied, agentv1.Reason_REASON_UNSPECIFIED,
		"client %q is unknown: the common name of a client certificate has to be %q or %q",
		name, agentv1.ClientAPIServer, agentv1.ClientController)
}

// authorized are the options of a server whose calls are all authorized.
func authorized() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if err := authorize(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return handle(ctx, in)
		}),
		grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if err := authorize(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return handle(server, stream)
		}),
	}
}
