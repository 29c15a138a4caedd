// SPDX-License-Identifier: Apache-2.0

// Command demo keeps a cluster with the product running on this machine between "make demo" and "make down".
//
//	demo up      start the cluster in the background, or find the one that runs, and print its variables
//	demo down    end it and remove all that it wrote
//	demo read    print the record at an address as the agent reads it from the token
//
// Its state lies in the user's cache folder. The cluster's processes are children of one supervisor,
// this command in the background, and end with it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("find the user's cache folder: %w", err)
	}
	s := state{dir: filepath.Join(cache, "hsm", "demo")}
	switch {
	case len(args) == 1 && args[0] == "up":
		return s.up(ctx)
	case len(args) == 1 && args[0] == "down":
		return s.down(ctx)
	case len(args) == 2 && args[0] == "read":
		return s.read(ctx, args[1])
	case len(args) == 1 && args[0] == superviseCommand:
		return s.supervise(ctx)
	}
	return fmt.Errorf("usage: demo up | down | read ADDRESS")
}
