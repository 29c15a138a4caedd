// SPDX-License-Identifier: Apache-2.0

// Command agent serves the store on one PKCS#11 token to API servers.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/agent"
)

func main() {
	err := run(os.Args[1:])
	klog.Flush()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "agent: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if err := forbidCoreDumps(); err != nil {
		return err
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a, err := agent.New(o.agent)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	if o.healthListen != "" {
		health, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.healthListen)
		if err != nil {
			return fmt.Errorf("--health-listen: %w", err)
		}
		group.Go(func() error { return a.ServeHealth(ctx, health) })
	}
	klog.InfoS("Agent listens", "address", listener.Addr())
	if o.metricsListen != "" {
		metrics, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.metricsListen)
		if err != nil {
			return fmt.Errorf("--metrics-listen: %w", err)
		}
		mux := http.NewServeMux()
		mux.Handle("/metrics", a.Metrics())
		server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
		go server.Serve(metrics) //nolint:errcheck // It ends by Close only.
		defer server.Close()
	}
	group.Go(func() error { return a.Run(ctx, listener) })
	return group.Wait()
}
