// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/faulttoken"
	"j5t.io/hsm/test/framework/pki"
)

// TestWhoMayCallWhat calls every method of every service as each client.
func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	ca, err := pki.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files := func(name string, usage pki.Usage) mtls.Files {
		cert, key, err := ca.Issue(name, usage)
		if err != nil {
			t.Fatal(err)
		}
		return mtls.Files{CertFile: cert, KeyFile: key, CAFile: ca.CertFile}
	}
	o, _ := testOptions(t)
	o.TLS = files("agent", pki.Server)
	a, err := newAgent(o, &faultModule{token: faulttoken.New(faulttoken.SoftHSM)})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	controllers := []string{
		"/j5t.hsm.agent.v1.Store/Status", "/j5t.hsm.agent.v1.Device/Info",
		"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch",
	}
	for name, may := range map[string]func(method string) bool{
		agentv1.ClientAPIServer:  func(string) bool { return true },
		agentv1.ClientController: func(method string) bool { return slices.Contains(controllers, method) },
		"hsm-agent-another":      func(string) bool { return false },
	} {
		conn := dialAs(t, files(name, pki.Client), listener.Addr().String())
		for service, info := range a.server.GetServiceInfo() {
			for _, method := range info.Methods {
				full := "/" + service + "/" + method.Name
				err := call(t, conn, full)
				if refused := status.Code(err) == codes.PermissionDenied; refused == may(full) {
					t.Errorf("%s calls %s: %v", name, full, err)
				} else if refused && !strings.Contains(err.Error(), name) {
					t.Errorf("the refusal does not name the client %s: %v", name, err)
				}
			}
		}
	}
	// The certificate of an agent is one of the authority's, whatever its name is.
	conn := dialAs(t, files(agentv1.ClientAPIServer+"-of-agent", pki.Server), listener.Addr().String())
	if err := call(t, conn, agentv1.Store_Status_FullMethodName); status.Code(err) != codes.Unavailable {
		t.Errorf("a certificate for servers only: want no connection, got %v", err)
	}
}

func dialAs(t *testing.T, files mtls.Files, address string) *grpc.ClientConn {
	t.Helper()
	creds, err := files.Client()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// call sends one empty request, and gives the first error.
func call(t *testing.T, conn *grpc.ClientConn, method string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&healthv1.HealthCheckRequest{}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(&healthv1.HealthCheckResponse{})
}
