// SPDX-License-Identifier: Apache-2.0

// Command discovery finds hardware security modules on a node and reports them on its
// own pod.
package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/discovery"
)

func main() {
	options := discovery.NewOptions()
	cmd := &cobra.Command{
		Use:          "discovery",
		Short:        "Find hardware security modules on a node",
		Long:         "Finds the hardware security modules that HSMDevices describe among the devices of a node, and reports them by an annotation on its own pod.",
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
