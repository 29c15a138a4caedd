// SPDX-License-Identifier: Apache-2.0

// Package faults runs the whole product with everything that can fail failing:
// tokens, agents, the network between, API servers. It looks for answers that
// are not true.
package faults

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	hsmclient "j5t.io/hsm/pkg/generated/clientset/versioned/typed/hsm/v1alpha1"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/suite"
)

var (
	// hsm is the cluster that all tests share. Each breaks it and mends it again,
	// so none is parallel.
	hsm *cluster.Cluster
	// network lies between the API server and the agent.
	network *proxy

	core    kubernetes.Interface
	secrets hsmclient.HSMSecretsGetter
	// metadataOnly reads as the garbage collector does.
	metadataOnly metadata.Interface

	hsmSecrets = v1alpha1.SchemeGroupVersion.WithResource("hsmsecrets")
)

func TestMain(m *testing.M) {
	log.SetLogger(klog.Background())
	suite.Main(m, setUp)
}

func setUp(ctx context.Context, s *suite.Suite) error {
	var err error
	if hsm, err = s.StartCluster(ctx, cluster.Options{ControllerManager: true, Races: true, Verbosity: 5}); err != nil {
		return err
	}
	if network, err = newProxy(hsm.AgentAddress); err != nil {
		return err
	}
	s.Cleanup(network.close)
	hsm.AgentAddresses = []string{network.address}
	hsm.APIServer.Kill()
	if err := hsm.StartAPIServer(ctx); err != nil {
		return err
	}
	// Failures are to be seen at once, and requests not to wait for each other.
	config := rest.CopyConfig(hsm.Admin)
	config.QPS = -1
	if core, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if metadataOnly, err = metadata.NewForConfig(config); err != nil {
		return err
	}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return err
	}
	secrets = client.HsmV1alpha1()
	return nil
}

func newSecret(name string) *v1alpha1.HSMSecret {
	return &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Data:       map[string][]byte{"password": []byte(name)},
	}
}

func createNamespace(t *testing.T, name string) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := core.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func createSecret(t *testing.T, namespace, name string) *v1alpha1.HSMSecret {
	t.Helper()
	created, err := secrets.HSMSecrets(namespace).Create(t.Context(), newSecret(name), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// soon bounds the start of a process.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit(time.Minute))
	t.Cleanup(cancel)
	return ctx
}

// served waits until HSMSecrets can be read again.
func served(t *testing.T) {
	t.Helper()
	await.NoError(t, 30*time.Second, func(ctx context.Context) error {
		_, err := secrets.HSMSecrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		return err
	})
}
