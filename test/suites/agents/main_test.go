// SPDX-License-Identifier: Apache-2.0

// Package agents tests how the API server finds agents by HSMPools, and that it
// never takes another store for the cluster's. The controller's part is played by
// the tests: they write the status of a pool.
package agents

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	typed "j5t.io/hsm/pkg/generated/clientset/versioned/typed/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/process"
	"j5t.io/hsm/test/framework/suite"
)

// clientLimitVerbosity is that at which client-go logs that a request waits for its limit.
const clientLimitVerbosity = 3

// patience is how long is waited for what should happen soon.
const patience = 45 * time.Second

var (
	// hsm is the cluster that all tests share. They change where its agents are, so
	// none is parallel.
	hsm    *cluster.Cluster
	host   kubernetes.Interface
	client typed.HsmV1alpha1Interface
)

func TestMain(m *testing.M) { suite.Main(m, setUp) }

func setUp(ctx context.Context, s *suite.Suite) error {
	var err error
	if hsm, err = s.StartCluster(ctx, cluster.Options{Pools: true, Races: true, Verbosity: clientLimitVerbosity}); err != nil {
		return err
	}
	config := rest.CopyConfig(hsm.Admin)
	config.QPS = -1
	if host, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	ours, err := versioned.NewForConfig(config)
	if err != nil {
		return err
	}
	client = ours.HsmV1alpha1()
	pool := &v1alpha1.HSMPool{
		ObjectMeta: metav1.ObjectMeta{Name: "pico", Namespace: cluster.SystemNamespace},
		Spec:       v1alpha1.HSMPoolSpec{HSMDeviceRefs: []string{"pico"}},
	}
	if _, err = client.HSMPools(cluster.SystemNamespace).Create(ctx, pool, metav1.CreateOptions{}); err != nil {
		return err
	}
	return hsm.StartAgent(ctx, "--provision")
}

// members writes the status of the pool, and returns when.
func members(t *testing.T, members ...v1alpha1.PoolMember) time.Time {
	t.Helper()
	pools := client.HSMPools(cluster.SystemNamespace)
	pool, err := pools.Get(t.Context(), "pico", metav1.GetOptions{})
	must(t, err)
	pool.Status.Members = members
	written := time.Now()
	_, err = pools.UpdateStatus(t.Context(), pool, metav1.UpdateOptions{})
	must(t, err)
	return written
}

func member(serial, endpoint string) v1alpha1.PoolMember {
	return v1alpha1.PoolMember{SerialNumber: serial, AgentEndpoint: endpoint}
}

// begin has the pool name the agent of the cluster's token, which holds one
// HSMSecret, db of the namespace default.
func begin(t *testing.T) {
	t.Helper()
	members(t, member(hsm.Token.Serial, hsm.AgentAddress))
	await.NoError(t, patience, func(context.Context) error {
		_, err := client.HSMSecrets("default").Create(t.Context(), &v1alpha1.HSMSecret{
			ObjectMeta: metav1.ObjectMeta{Name: "db"}, Data: map[string][]byte{"password": []byte("one")},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
		return err
	})
	served(t)
}

func read(t *testing.T) error {
	t.Helper()
	_, err := client.HSMSecrets("default").Get(t.Context(), "db", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		t.Fatalf("an outage was taken for absence: %v", err)
	}
	return err
}

// served waits until the HSMSecret can be read.
func served(t *testing.T) {
	t.Helper()
	await.NoError(t, patience, func(context.Context) error { return read(t) })
}

// forward gives another address of a server, which ends with the test.
func forward(t *testing.T, target string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer from.Close()
				to, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer to.Close()
				go func() {
					_, _ = io.Copy(to, from)
					_ = to.Close()
				}()
				_, _ = io.Copy(from, to)
			}()
		}
	}()
	return listener.Addr().String()
}

// ask asks our server itself for a path.
func ask(t *testing.T, config *rest.Config, path string) (code int, body string) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	must(t, err)
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+path, http.NoBody)
	must(t, err)
	response, err := client.Do(request)
	must(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(content)
}

func direct(t *testing.T, kubeconfig string) *rest.Config {
	t.Helper()
	config, err := hsm.Direct(kubeconfig)
	must(t, err)
	return config
}

func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := process.FreePort()
	must(t, err)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
