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
	"j5t.io/hsm/pkg/storebinding"
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
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit(time.Minute))
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
		for _, part := range []string{ours, theirs, cluster.SystemNamespace + "/" + storebinding.Name, address} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q is not in: %v", what, part, err)
			}
		}
	}
	// The token is back.
	must(t, hsm.StartAgent(t.Context()))
	begin(t)
}

// TestAPersonBindsAnotherStore is what is done after an adoption: the running
// server follows, both ways.
func TestAPersonBindsAnotherStore(t *testing.T) {
	begin(t)
	serial, address := startAnother(t)
	status, err := hsm.AgentStatus(t.Context(), address)
	must(t, err)
	members(t, member(hsm.Token.Serial, hsm.AgentAddress), member(serial, address))
	before := bind(t, status.GetStoreId())
	await.NoError(t, patience, func(context.Context) error {
		_, err := client.HSMSecrets("default").Get(t.Context(), "db", metav1.GetOptions{})
		if apierrors.IsNotFound(err) { // It is in the other store.
			return nil
		}
		return err
	})
	bind(t, before)
	await.NoError(t, patience, func(context.Context) error {
		_, err := client.HSMSecrets("default").Get(t.Context(), "db", metav1.GetOptions{})
		return err
	})
	// Without a ConfigMap, the server does not guess.
	bindings := host.CoreV1().ConfigMaps(cluster.SystemNamespace)
	must(t, bindings.Delete(t.Context(), storebinding.Name, metav1.DeleteOptions{}))
	await.NoError(t, patience, func(context.Context) error {
		err := read(t)
		if apierrors.HasStatusCause(err, storage.CauseSeveralStores) {
			return nil
		}
		return err
	})
	begin(t)
	now, err := bindings.Get(t.Context(), storebinding.Name, metav1.GetOptions{})
	must(t, err)
	if storebinding.StoreID(now) != before {
		t.Errorf("the cluster is bound to %q, want %q", storebinding.StoreID(now), before)
	}
}

// bind binds the cluster to a store, and returns the id of the one before.
func bind(t *testing.T, storeID string) (before string) {
	t.Helper()
	bindings := host.CoreV1().ConfigMaps(cluster.SystemNamespace)
	m, err := bindings.Get(t.Context(), storebinding.Name, metav1.GetOptions{})
	must(t, err)
	before = storebinding.StoreID(m)
	m.Data["store-id"] = storeID
	_, err = bindings.Update(t.Context(), m, metav1.UpdateOptions{})
	must(t, err)
	return before
}
