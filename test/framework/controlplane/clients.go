// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"net"
	"strconv"

	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/pki"
	"j5t.io/hsm/test/framework/process"
)

// startClients starts what of the control plane is a client of kube-apiserver.
func (c *ControlPlane) startClients(ctx context.Context, o Options, binaries map[string]string) error {
	args := append([]string{"--v=" + strconv.Itoa(o.Verbosity)}, o.ComponentArgs...)
	if o.ControllerManager {
		if err := c.startClient(ctx, assets.KubeControllerManager, binaries[assets.KubeControllerManager], append([]string{
			"--root-ca-file=" + c.ca.CertFile,
			"--service-account-private-key-file=" + c.serviceAccountKey,
			// Each controller is a ServiceAccount with its own rights, as in production.
			"--use-service-account-credentials",
		}, args...)...); err != nil {
			return err
		}
	}
	if o.Scheduler {
		return c.startClient(ctx, assets.KubeScheduler, binaries[assets.KubeScheduler], args...)
	}
	return nil
}

// startClient starts a component as the user system:NAME, and waits until it is healthy.
func (c *ControlPlane) startClient(ctx context.Context, name, binary string, args ...string) error {
	kubeconfig, err := c.AddUser("system:" + name)
	if err != nil {
		return err
	}
	port, err := process.FreePort()
	if err != nil {
		return err
	}
	cert, key, err := c.ca.Issue(name, pki.Server)
	if err != nil {
		return err
	}
	// It refuses whoever shows a certificate that is not for clients.
	clientCert, clientKey, err := c.ca.Issue(name+"-probe", pki.Client)
	if err != nil {
		return err
	}
	client, err := httpsClient(c.ca.Bundle, clientCert, clientKey)
	if err != nil {
		return err
	}
	return c.run(ctx, process.Spec{
		Name: name,
		Path: binary,
		Args: append([]string{
			"--bind-address=127.0.0.1",
			"--secure-port=" + strconv.Itoa(port),
			"--tls-cert-file=" + cert,
			"--tls-private-key-file=" + key,
			"--kubeconfig=" + kubeconfig,
			"--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig,
			"--leader-elect=false",
		}, args...),
		Ready: answers(client, "https://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(port))+"/healthz"),
	})
}
