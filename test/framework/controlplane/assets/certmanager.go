// SPDX-License-Identifier: Apache-2.0

package assets

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
)

const (
	certManagerModule  = "test/framework/controlplane/certmanager"
	certManagerPackage = "github.com/cert-manager/cert-manager"
)

// CertManager builds the controllers of cert-manager (test/framework/controlplane/certmanager), which takes
// minutes the first time, and returns the path of the binary. It needs --kubeconfig.
func CertManager(ctx context.Context, progress io.Writer) (string, error) {
	root, err := Checkout(ctx)
	if err != nil {
		return "", err
	}
	return keep(ctx, progress, root, "", goBuild{
		name: "cert-manager",
		dir:  filepath.Join(root, certManagerModule),
		// As the control plane is built, and our server: they share many packages.
		env:  []string{"CGO_ENABLED=0"},
		args: []string{"-trimpath", "-ldflags=-s -w", "."},
	})
}

// CertManagerDefinitions returns the folder with the CustomResourceDefinitions of cert-manager.
func CertManagerDefinitions(ctx context.Context) (string, error) {
	root, err := Checkout(ctx)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, certManagerModule)
	if _, err := output(ctx, dir, "go", "mod", "download", certManagerPackage); err != nil {
		return "", fmt.Errorf("download cert-manager: %w", err)
	}
	folder, err := output(ctx, dir, "go", "list", "-m", "-f", "{{.Dir}}", certManagerPackage)
	if err != nil {
		return "", fmt.Errorf("find cert-manager: %w", err)
	}
	return filepath.Join(folder, "deploy", "crds"), nil
}
