// SPDX-License-Identifier: Apache-2.0

// Command assets finds, downloads or builds the binaries of a Kubernetes control plane, and prints
// their paths. With names as arguments it does so for these only.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"j5t.io/hsm/test/controlplane/assets"
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
	if len(names) == 0 {
		names = []string{assets.Etcd, assets.KubeAPIServer, assets.KubeControllerManager, assets.KubeScheduler, assets.Kubectl}
	}
	found, err := assets.Find(ctx, os.Stderr, names...)
	if err != nil {
		return err
	}
	for _, name := range names {
		fmt.Println(found[name])
	}
	return nil
}
