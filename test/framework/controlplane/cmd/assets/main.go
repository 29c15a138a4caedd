// SPDX-License-Identifier: Apache-2.0

// Command assets finds, downloads or builds the binaries of a Kubernetes control plane and of
// cert-manager, and prints their paths. With names as arguments it does so for these binaries of
// the control plane only.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"j5t.io/hsm/test/framework/controlplane/assets"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string) error {
	all := len(names) == 0
	if all {
		names = []string{assets.Etcd, assets.KubeAPIServer, assets.KubeControllerManager, assets.KubeScheduler, assets.Kubectl}
	}
	found, err := assets.Find(ctx, os.Stderr, names...)
	if err != nil {
		return err
	}
	for _, name := range names {
		fmt.Println(found[name])
	}
	if !all {
		return nil
	}
	path, err := assets.CertManager(ctx, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Println(path)
	return nil
}
