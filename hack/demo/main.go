// SPDX-License-Identifier: Apache-2.0

// Command demo keeps the whole product running on this machine between "make demo" and "make down".
//
//	demo up      start it in the background, or find the one that runs, and print its shell variables
//	demo down    end it and remove all that it wrote
//	demo read    print the record at an address as the agent reads it from the token
//
// All that it writes is in the folder DEMO_DIR, or in the user's cache folder. Its processes are children of
// one supervisor, this command in the background, and end with it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// dirVariable names the environment variable with the folder of the demo.
const dirVariable = "DEMO_DIR"

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
	s, err := open()
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "up":
		return s.up(ctx)
	case len(args) == 1 && args[0] == "down":
		return s.down(ctx)
	case len(args) == 2 && args[0] == "read":
		return read(ctx, args[1])
	case len(args) == 1 && args[0] == superviseCommand:
		return s.supervise(ctx)
	}
	return fmt.Errorf("usage: demo up | down | read ADDRESS")
}

func open() (state, error) {
	if dir := os.Getenv(dirVariable); dir != "" {
		dir, err := filepath.Abs(dir)
		return state{dir}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return state{}, fmt.Errorf("find the user's cache folder: %w", err)
	}
	return state{filepath.Join(cache, "hsm", "demo")}, nil
}
