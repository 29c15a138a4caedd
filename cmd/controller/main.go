// SPDX-License-Identifier: Apache-2.0

// Command controller projects HSMSecrets into Secrets, and writes edits of these
// back to the token.
package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/controller"
)

// gcPercent has the garbage collector run when the heap has grown by so much, in
// place of Go's 100: beside 10,000 Secrets of others the process takes 50 MiB then,
// not 67, most of it its own code. GOGC overrides it.
const gcPercent = 25

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	options := controller.NewOptions()
	cmd := &cobra.Command{
		Use:          "controller",
		Short:        "Keep Secrets in step with HSMSecrets",
		Long:         "Projects HSMSecrets into Secrets, and writes edits of these Secrets back to the token.",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := options.Validate(); err != nil {
				return err
			}
			return options.Run(cmd.Context())
		},
	}
	options.AddFlags(cmd.Flags())
	logging := flag.NewFlagSet("logging", flag.ContinueOnError)
	klog.InitFlags(logging)
	cmd.Flags().AddGoFlag(logging.Lookup("v"))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := cmd.ExecuteContext(ctx)
	stop()
	klog.Flush()
	if err != nil {
		os.Exit(1)
	}
}
