// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"io"
	"path/filepath"

	"j5t.io/hsm/test/framework/controlplane/assets"
	"j5t.io/hsm/test/framework/process"
)

// DefineCertManager makes cert-manager's kinds known, those of ACME excepted.
func (c *ControlPlane) DefineCertManager(ctx context.Context) error {
	folder, err := assets.CertManagerDefinitions(ctx)
	if err != nil {
		return err
	}
	var files []string
	for _, kind := range []string{"certificates", "certificaterequests", "issuers", "clusterissuers"} {
		files = append(files, "--filename="+filepath.Join(folder, "cert-manager.io_"+kind+".yaml"))
	}
	kubectl := c.Kubectl(c.AdminKubeconfig)
	if _, _, err := kubectl.Run(ctx, append([]string{"apply", "--server-side"}, files...)...); err != nil {
		return err
	}
	// kubectl does not wait for a condition where there is none yet.
	return waitFor(ctx, "the kinds of cert-manager", func(ctx context.Context) error {
		_, _, err := kubectl.Run(ctx, append([]string{"wait", "--for=condition=Established"}, files...)...)
		return err
	})
}

// StartCertManager starts cert-manager, for Issuers of the kinds SelfSigned and CA, and waits until
// it is ready, whatever that is. DefineCertManager comes before.
func (c *ControlPlane) StartCertManager(ctx context.Context, progress io.Writer, ready func(context.Context) error) error {
	binary, err := assets.CertManager(ctx, progress)
	if err != nil {
		return err
	}
	return c.run(ctx, process.Spec{Name: "cert-manager", Path: binary, Args: []string{"--kubeconfig=" + c.AdminKubeconfig}, Ready: ready})
}
