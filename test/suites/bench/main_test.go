// SPDX-License-Identifier: Apache-2.0

// Package bench measures the API server on the whole product, beside
// kube-apiserver in the same run: a figure of a machine alone says little.
package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/suite"
)

const (
	// objects are so many of each kind, all in one namespace.
	objects   = 1000
	namespace = "bench"
)

var (
	hsm    *cluster.Cluster
	core   kubernetes.Interface
	client versioned.Interface
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		os.Exit(m.Run()) // There is no test, and so nothing to start.
	}
	suite.Main(m, setUp)
}

// setUp starts a cluster that holds the objects, and an API server that has not
// been asked for anything yet.
func setUp(ctx context.Context, s *suite.Suite) error {
	var err error
	if hsm, err = s.StartCluster(ctx, cluster.Options{}); err != nil {
		return err
	}
	config := rest.CopyConfig(hsm.Admin)
	config.QPS = -1
	if core, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if client, err = versioned.NewForConfig(config); err != nil {
		return err
	}
	if _, err = core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := createAll(ctx); err != nil {
		return err
	}
	hsm.APIServer.Kill()
	return hsm.StartAPIServer(ctx)
}

func name(i int) string { return fmt.Sprintf("db-%04d", i) }

func createAll(ctx context.Context) error {
	data := map[string][]byte{"username": []byte("app"), "password": []byte("correct horse battery staple")}
	numbers, failures := make(chan int), make(chan error, objects)
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for i := range numbers {
				meta := metav1.ObjectMeta{Name: name(i), Labels: map[string]string{"app": "db"}}
				if _, err := core.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta, Data: data}, metav1.CreateOptions{}); err != nil {
					failures <- err
				}
				if _, err := client.HsmV1alpha1().HSMSecrets(namespace).Create(ctx, &v1alpha1.HSMSecret{ObjectMeta: meta, Data: data}, metav1.CreateOptions{}); err != nil {
					failures <- err
				}
			}
		})
	}
	for i := range objects {
		numbers <- i
	}
	close(numbers)
	writers.Wait()
	close(failures)
	return <-failures // nil if there is none.
}
