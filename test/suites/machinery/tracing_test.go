// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/test/framework/await"
)

// collector receives spans, as an OpenTelemetry collector does.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	server *grpc.Server
	done   chan struct{}

	mu    sync.Mutex
	spans []*tracev1.Span
}

func (c *collector) start(listener net.Listener) {
	c.server = grpc.NewServer()
	c.done = make(chan struct{})
	collectorv1.RegisterTraceServiceServer(c.server, c)
	go func() {
		defer close(c.done)
		_ = c.server.Serve(listener)
	}()
}

func (c *collector) stop() {
	c.server.Stop()
	<-c.done
}

func (c *collector) Export(_ context.Context, in *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range in.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func (c *collector) find(match func(*tracev1.Span) bool) *tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range c.spans {
		if match(span) {
			return span
		}
	}
	return nil
}

// TestTracing has the server export the spans of a request and, below it, of the
// call to the agent; no span holds a value.
func TestTracing(t *testing.T) {
	const canary = "canary-tracing-81c2"
	ns := namespace(t)
	client := secrets(t, hsm.Admin, ns)
	_, err := client.Create(t.Context(), secret("db", canary), metav1.CreateOptions{})
	must(t, err)
	_, err = client.Get(t.Context(), "db", metav1.GetOptions{})
	must(t, err)

	// The exporter sends every five seconds.
	await.NoError(t, 30*time.Second, func(context.Context) error {
		for method, call := range map[string]string{"POST": "Commit", "GET": "Get"} {
			request := spans.find(func(span *tracev1.Span) bool {
				return strings.HasPrefix(span.GetName(), method+" /apis/hsm.j5t.io/v1alpha1/namespaces/{:namespace}/hsmsecrets") &&
					strings.Contains(span.String(), ns)
			})
			if request == nil {
				return errors.New("no span of the request " + method)
			}
			if spans.find(func(span *tracev1.Span) bool {
				return strings.HasSuffix(span.GetName(), "Store/"+call) && bytes.Equal(span.GetTraceId(), request.GetTraceId())
			}) == nil {
				return errors.New("no span of the agent's call " + call)
			}
		}
		return nil
	})
	if span := spans.find(func(span *tracev1.Span) bool { return strings.Contains(span.String(), canary) }); span != nil {
		t.Errorf("a value of a secret is in a span: %v", span)
	}
}
