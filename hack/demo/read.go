// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/client"
	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/product"
)

const readTimeout = 10 * time.Second

// read asks the agent for the record at an address (spec.hsmPath). Kubernetes tells where the agent is, and has
// the certificate of the API server; the answer does not come through it.
func read(ctx context.Context, address string) error {
	config, err := controlplane.Config(os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	agent, err := dialAgent(ctx, config)
	if err != nil {
		return err
	}
	defer agent.Close()
	key, err := keyOf(ctx, agent.Store, address)
	if err != nil {
		return err
	}
	answer, err := agent.Store.Get(ctx, &agentv1.GetRequest{Key: key})
	if err != nil {
		return err
	}
	fmt.Printf("token     %s\n", answer.GetSerial())
	fmt.Printf("key       %s\n", key)
	fmt.Printf("revision  %d\n", answer.GetRecord().GetRevision())
	fmt.Printf("data      %q\n", answer.GetRecord().GetData())
	return nil
}

// dialAgent connects to the agent as the API server does.
func dialAgent(ctx context.Context, config *rest.Config) (*client.Conn, error) {
	hsm, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	pool, err := hsm.HsmV1alpha1().HSMPools(product.Namespace).Get(ctx, "softhsm", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if len(pool.Status.Members) == 0 || pool.Status.Members[0].AgentEndpoint == "" {
		return nil, fmt.Errorf("no agent serves the token of HSMPool %s", pool.Name)
	}
	member := pool.Status.Members[0]
	dir, err := os.MkdirTemp("", "demo-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	files, err := writeCertificate(ctx, config, dir)
	if err != nil {
		return nil, err
	}
	dialer, err := client.NewDialer(files)
	if err != nil {
		return nil, err
	}
	agent, _, err := dialer.Dial(ctx, client.Endpoint{
		Address:    member.AgentEndpoint,
		ServerName: agentname.ServerName(member.SerialNumber, product.Namespace),
	})
	return agent, err
}

// writeCertificate puts the API server's certificate for agents into a folder.
func writeCertificate(ctx context.Context, config *rest.Config, dir string) (mtls.Files, error) {
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return mtls.Files{}, err
	}
	secret, err := core.CoreV1().Secrets(product.Namespace).Get(ctx, certs.APIServerClientSecret, metav1.GetOptions{})
	if err != nil {
		return mtls.Files{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return mtls.Files{}, err
	}
	defer root.Close()
	for _, name := range []string{certs.BundleKey, corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		if err := root.WriteFile(name, secret.Data[name], 0o600); err != nil {
			return mtls.Files{}, err
		}
	}
	return mtls.Files{
		CAFile:   filepath.Join(dir, certs.BundleKey),
		CertFile: filepath.Join(dir, corev1.TLSCertKey),
		KeyFile:  filepath.Join(dir, corev1.TLSPrivateKeyKey),
	}, nil
}

// keyOf looks at the names only: no value is read from the token.
func keyOf(ctx context.Context, store agentv1.StoreClient, address string) (string, error) {
	list, err := store.List(ctx, &agentv1.ListRequest{WithoutData: true})
	if err != nil {
		return "", err
	}
	for {
		answer, err := list.Recv()
		if err != nil {
			return "", err
		}
		for _, record := range answer.GetRecords() {
			if record.GetAddress() == address {
				return record.GetKey(), nil
			}
		}
		if answer.GetEnd() != nil {
			return "", fmt.Errorf("the token %s holds nothing at %q", answer.GetEnd().GetSerial(), address)
		}
	}
}
