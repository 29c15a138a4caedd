// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storage "j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/softhsm"
)

// startAnother starts the agent of another token, with an empty store of its own.
func startAnother(t *testing.T) (serial, address string) {
	t.Helper()
	other := *hsm
	var err error
	other.Token, err = softhsm.Create(filepath.Join(t.TempDir(), "token"), "another", "123456")
	must(t, err)
	other.AgentAddress = freeAddress(t)
	spec, err := other.AgentSpec(t.Context(), "agent-"+other.Token.Serial, other.AgentAddress, other.Token.PINFile)
	must(t, err)
	spec.Args = append(spec.Args, "--provision")
	spec.Ready = other.AgentServes
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := process.Start(ctx, spec)
	must(t, err)
	t.Cleanup(p.Kill)
	return other.Token.Serial, other.AgentAddress
}

// TestAnotherStoreIsNotTaken is law 3: the server is restarted while the token is
// away, and the only agent that it reaches serves another store, which is empty.
// By then it has no memory but the ConfigMap. A 404 would have the garbage
// collector delete what belongs to the HSMSecrets.
func TestAnotherStoreIsNotTaken(t *testing.T) {
	begin(t)
	status, err := hsm.AgentStatus(t.Context(), hsm.AgentAddress)
	must(t, err)
	ours := status.GetStoreId()
	serial, address := startAnother(t)
	if status, err = hsm.AgentStatus(t.Context(), address); err != nil || status.GetStoreId() == ours {
		t.Fatalf("the other store: %v, %v", status, err)
	}
	theirs := status.GetStoreId()

	hsm.Agent.Kill()
	hsm.APIServer.Kill()
	members := func() { members(t, member(hsm.Token.Serial, ""), member(serial, address)) }
	must(t, hsm.StartAPIServer(t.Context()))
	members()
	await.NoError(t, patience, func(context.Context) error {
		err := read(t)
		if apierrors.HasStatusCause(err, "TOKEN_FOREIGN") {
			return nil
		}
		return err
	})
	for what, err := range map[string]error{
		"get":  read(t),
		"list": func() error { _, err := client.HSMSecrets("").List(t.Context(), metav1.ListOptions{}); return err }(),
		"delete": func() error {
			return client.HSMSecrets("default").Delete(t.Context(), "db", metav1.DeleteOptions{})
		}(),
	} {
		if !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s: want 503, got %v", what, err)
			continue
		}
		for _, part := range []string{ours, theirs, cluster.SystemNamespace + "/" + storage.PinName, address} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q is not in: %v", what, part, err)
			}
		}
	}
	// The token is back.
	must(t, hsm.StartAgent(t.Context()))
	begin(t)
}

// TestAPersonPinsAnotherStore is what is done after an adoption: the running
// server follows, both ways.
func TestAPersonPinsAnotherStore(t *testing.T) {
	begin(t)
	serial, address := startAnother(t)
	status, err := hsm.AgentStatus(t.Context(), address)
	must(t, err)
	members(t, member(hsm.Token.Serial, hsm.AgentAddress), member(serial, address))
	before := pin(t, status.GetStoreId())
	await.NoError(t, patience, func(context.Context) error {
		_, err := client.HSMSecrets("default").Get(t.Context(), "db", metav1.GetOptions{})
		if apierrors.IsNotFound(err) { // It is in the other store.
			return nil
		}
		return err
	})
	pin(t, before)
	await.NoError(t, patience, func(context.Context) error {
		_, err := client.HSMSecrets("default").Get(t.Context(), "db", metav1.GetOptions{})
		return err
	})
	// Without a ConfigMap, the server does not guess.
	pins := host.CoreV1().ConfigMaps(cluster.SystemNamespace)
	must(t, pins.Delete(t.Context(), storage.PinName, metav1.DeleteOptions{}))
	await.NoError(t, patience, func(context.Context) error {
		err := read(t)
		if apierrors.HasStatusCause(err, storage.CauseSeveralStores) {
			return nil
		}
		return err
	})
	begin(t)
	now, err := pins.Get(t.Context(), storage.PinName, metav1.GetOptions{})
	must(t, err)
	if storage.PinnedStore(now) != before {
		t.Errorf("%q is pinned, want %q", storage.PinnedStore(now), before)
	}
}

// pin writes the id of a store, and gives that of the one before.
func pin(t *testing.T, storeID string) (before string) {
	t.Helper()
	pins := host.CoreV1().ConfigMaps(cluster.SystemNamespace)
	m, err := pins.Get(t.Context(), storage.PinName, metav1.GetOptions{})
	must(t, err)
	before = storage.PinnedStore(m)
	m.Data["store-id"] = storeID
	_, err = pins.Update(t.Context(), m, metav1.UpdateOptions{})
	must(t, err)
	return before
}
