// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"

	"k8s.io/client-go/rest"

	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/pki"
)

// Direct is the user of a kubeconfig who goes around kube-apiserver: it speaks
// to our API server itself. Without a kubeconfig it is nobody.
func (c *Cluster) Direct(kubeconfig string) (*rest.Config, error) {
	config := &rest.Config{}
	if kubeconfig != "" {
		var err error
		if config, err = controlplane.Config(kubeconfig); err != nil {
			return nil, err
		}
	}
	config.Host = "https://" + loopback(c.service.Port)
	config.CAData = c.serving.Bundle
	config.QPS = -1
	return config, nil
}

// Authorities sign the certificates between API server and agents, and the
// serving certificate of the API server.
func (c *Cluster) Authorities() (agents, serving *pki.CA) { return c.agents, c.serving }

// ServingNames are those that the API server's serving certificate needs.
func (c *Cluster) ServingNames() []string { return []string{c.service.DNSName()} }

// Trust makes kube-apiserver trust the authorities of a bundle for the serving
// certificate of the API server, by the APIService.
func (c *Cluster) Trust(ctx context.Context, bundle []byte) error {
	c.service.CABundle = bundle
	return c.RegisterAPIService(ctx, c.service)
}
