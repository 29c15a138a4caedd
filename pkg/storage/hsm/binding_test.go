// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/pkg/storebinding"
)

func bindingOf(t *testing.T, cluster hsm.StoreBinding) *corev1.ConfigMap {
	t.Helper()
	m, err := cluster.ConfigMaps.ConfigMaps(cluster.Namespace).Get(t.Context(), storebinding.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestARestartForgetsNoStore is law 3: the store is away, another one, which is
// empty, is there, and the server knows nothing of what was before.
func TestARestartForgetsNoStore(t *testing.T) {
	t.Parallel()
	a, cluster := newAuthority(t), newCluster()
	ours, stop := a.serve(answering("ours", "/k"), "127.0.0.1:0")
	mustGet(t, a.connectIn(cluster, ours), "/k")
	if got := storebinding.StoreID(bindingOf(t, cluster)); got != "ours" {
		t.Fatalf("the cluster is bound to %q", got)
	}
	stop()

	empty := answering("theirs", "/k")
	theirs, _ := a.serve(empty, "127.0.0.1:0")
	restarted := a.connectIn(cluster, ours, theirs)
	_, err := restarted.Get(t.Context(), getKey)
	if !apierrors.IsServiceUnavailable(err) || !apierrors.HasStatusCause(err, "TOKEN_FOREIGN") {
		t.Fatalf("want 503 TOKEN_FOREIGN, got %v", err)
	}
	for _, part := range []string{"theirs", "ours", "hsm-system/hsm-store", "data.store-id"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	// A person has decided otherwise.
	m := bindingOf(t, cluster)
	m.Data["store-id"] = "theirs"
	if _, err := cluster.ConfigMaps.ConfigMaps(cluster.Namespace).Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	mustGet(t, restarted, "/k")
}

// TestAnotherStoreIsBound ends all that goes on with the store before.
func TestAnotherStoreIsBound(t *testing.T) {
	t.Parallel()
	a, cluster := newAuthority(t), newCluster()
	address, _ := a.serve(answering("ours", "/k"), "127.0.0.1:0")
	client := a.connectIn(cluster, address)
	_, next, err := client.Watch(t.Context(), &agentv1.WatchRequest{Prefix: "/"})
	if err != nil {
		t.Fatal(err)
	}
	client.SetBoundStore("ours")
	mustGet(t, client, "/k")
	m := bindingOf(t, cluster)
	m.Data["store-id"] = "theirs"
	if _, err := cluster.ConfigMaps.ConfigMaps(cluster.Namespace).Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	client.SetBoundStore("theirs")
	if _, err := next(); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("watch: want 503, got %v", err)
	}
	if _, err := client.Get(t.Context(), getKey); !apierrors.HasStatusCause(err, "TOKEN_FOREIGN") {
		t.Errorf("want 503 TOKEN_FOREIGN, got %v", err)
	}
}

func TestSeveralStores(t *testing.T) {
	t.Parallel()
	a, cluster := newAuthority(t), newCluster()
	one, _ := a.serve(answering("one", "/one"), "127.0.0.1:0")
	two, _ := a.serve(answering("two", "/two"), "127.0.0.1:0")
	client := a.connectIn(cluster, one, two)
	_, err := client.Get(t.Context(), getKey)
	if !apierrors.IsServiceUnavailable(err) || !apierrors.HasStatusCause(err, hsm.CauseSeveralStores) {
		t.Fatalf("want 503 SEVERAL_STORES, got %v", err)
	}
	for _, part := range []string{"store one (agent " + one + ")", "store two (agent " + two + ")", "ConfigMap hsm-system/hsm-store", "data.store-id"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: storebinding.Name}, Data: map[string]string{"store-id": "two"}}
	if _, err := cluster.ConfigMaps.ConfigMaps(cluster.Namespace).Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	mustGet(t, client, "/two")
}

// TestTwoReplicasBindToOneStore has another replica bind the cluster in between.
func TestTwoReplicasBindToOneStore(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	host := fake.NewClientset()
	cluster := hsm.StoreBinding{ConfigMaps: host.CoreV1(), Namespace: "hsm-system"}
	theirs, _ := a.serve(answering("theirs", "/k"), "127.0.0.1:0")
	other := a.connectIn(cluster, theirs)
	first := true
	host.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		if first {
			first = false
			return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, storebinding.Name)
		}
		return false, nil, nil
	})
	ours, _ := a.serve(answering("ours", "/k"), "127.0.0.1:0")
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: storebinding.Name}, Data: map[string]string{"store-id": "theirs"}}
	if _, err := cluster.ConfigMaps.ConfigMaps(cluster.Namespace).Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := a.connectIn(cluster, ours).Get(t.Context(), getKey)
	if !apierrors.HasStatusCause(err, "TOKEN_FOREIGN") {
		t.Errorf("want 503 TOKEN_FOREIGN, got %v", err)
	}
	mustGet(t, other, "/k")
}

// TestBindingCannotBeRead: then no store is trusted.
func TestBindingCannotBeRead(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	address, _ := a.serve(answering("store", "/k"), "127.0.0.1:0")
	host := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "hsm-system", Name: storebinding.Name}})
	cluster := hsm.StoreBinding{ConfigMaps: host.CoreV1(), Namespace: "hsm-system"}
	for _, why := range []string{"emptied", "away"} {
		_, err := a.connectIn(cluster, address).Get(t.Context(), getKey)
		if !apierrors.IsServiceUnavailable(err) || !apierrors.HasStatusCause(err, hsm.CauseStoreUnknown) {
			t.Errorf("%s: want 503 STORE_UNKNOWN, got %v", why, err)
		}
		host.PrependReactor("*", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("kube-apiserver is away")
		})
	}
}
