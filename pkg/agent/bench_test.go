// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"io"
	"testing"

	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/test/framework/agenttest"
)

// What one request costs from the client to the token (SoftHSM) and back.

func BenchmarkGet(b *testing.B) {
	a := benchmarkAgent(b)
	benchmarkCommit(b, a, "a", 0)
	for b.Loop() {
		if _, err := a.Store().Get(b.Context(), &agentv1.GetRequest{Key: "a"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetWithoutData(b *testing.B) {
	a := benchmarkAgent(b)
	benchmarkCommit(b, a, "a", 0)
	for b.Loop() {
		if _, err := a.Store().Get(b.Context(), &agentv1.GetRequest{Key: "a", WithoutData: true}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	a := benchmarkAgent(b)
	var revision uint64
	for b.Loop() {
		revision = benchmarkCommit(b, a, "a", revision)
	}
}

// BenchmarkList reads a page of metadata out of a thousand records.
func BenchmarkList(b *testing.B) {
	a := benchmarkAgent(b)
	for i := range 1000 {
		benchmarkCommit(b, a, fmt.Sprintf("/x/%d", i), 0)
	}
	for b.Loop() {
		stream, err := a.Store().List(b.Context(), &agentv1.ListRequest{WithoutData: true, Limit: 500})
		if err != nil {
			b.Fatal(err)
		}
		for {
			out, err := stream.Recv()
			if err != nil {
				b.Fatal(err)
			}
			if out.GetEnd() != nil {
				break
			}
		}
	}
}

// benchmarkAgent starts an agent whose audit lines go nowhere.
func benchmarkAgent(b *testing.B) *agenttest.Agent {
	b.Helper()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	return agenttest.Start(b)
}

func benchmarkCommit(b *testing.B, a *agenttest.Agent, key string, expected uint64) (revision uint64) {
	b.Helper()
	out, err := a.Store().Commit(b.Context(), &agentv1.CommitRequest{Key: key, ExpectedRevision: expected, Change: &agentv1.CommitRequest_Put{
		Put: &agentv1.Put{Meta: []byte("meta"), Data: make([]byte, 200)},
	}})
	if err != nil || !out.GetCommitted() {
		b.Fatalf("commit says %v, %v", out, err)
	}
	return out.GetRevision()
}
