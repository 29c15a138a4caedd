// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/discovery/known"
	"j5t.io/hsm/pkg/discovery/sysfs"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
)

// Options are what the command line of discovery can say.
type Options struct {
	NodeName, PodName, PodNamespace string
	Host                            sysfs.Host
	CCIDList                        string
	RescanInterval                  time.Duration
	Kubeconfig                      string
	ListenAddress                   string
}

// NewOptions returns the defaults.
func NewOptions() *Options {
	return &Options{
		Host:           sysfs.DefaultHost(),
		RescanInterval: 30 * time.Second,
		ListenAddress:  ":8080",
	}
}

// AddFlags adds the flags of all options.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.NodeName, "node-name", o.NodeName, "Name of the node, spec.nodeName of this pod.")
	fs.StringVar(&o.PodName, "pod-name", o.PodName, "Name of this pod, which takes the report.")
	fs.StringVar(&o.PodNamespace, "pod-namespace", o.PodNamespace, "Namespace of this pod.")
	fs.StringVar(&o.Host.Sys, "sysfs-root", o.Host.Sys, "Where sysfs of the node is mounted.")
	fs.StringVar(&o.Host.Dev, "dev-root", o.Host.Dev, "Where /dev of the node is mounted.")
	fs.StringVar(&o.CCIDList, "ccid-list", o.CCIDList,
		"Info.plist of libccid, whose readers autoDiscovery of deviceType Generic finds. Default: the first that exists in the usual places, below /host and in the image.")
	fs.DurationVar(&o.RescanInterval, "rescan-interval", o.RescanInterval,
		"Longest time between two looks at the devices. Hot-plug events of the kernel are followed at once.")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "Kubeconfig of the cluster. Default: the pod's ServiceAccount.")
	fs.StringVar(&o.ListenAddress, "listen-address", o.ListenAddress, "Address (host:port) of /healthz and /metrics.")
}

// Validate says what is wrong with the options, all of it at once.
func (o *Options) Validate() error {
	var errs []error
	for _, flag := range []struct{ name, value string }{
		{"--node-name", o.NodeName},
		{"--pod-name", o.PodName},
		{"--pod-namespace", o.PodNamespace},
		{"--sysfs-root", o.Host.Sys},
		{"--dev-root", o.Host.Dev},
		{"--listen-address", o.ListenAddress},
	} {
		if flag.value == "" {
			errs = append(errs, fmt.Errorf("%s: must be set", flag.name))
		}
	}
	if o.RescanInterval < time.Second {
		errs = append(errs, fmt.Errorf("--rescan-interval %s: must be at least 1s", o.RescanInterval))
	}
	return errors.Join(errs...)
}

// Run runs discovery with valid options until the context ends.
func (o *Options) Run(ctx context.Context) error {
	config, err := o.restConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	hsmClient, err := versioned.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of hsm.j5t.io: %w", err)
	}
	metadataClient, err := metadata.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of the cluster: %w", err)
	}
	table, err := known.New()
	if err != nil {
		return err
	}
	lists := known.CCIDLists()
	if o.CCIDList != "" {
		lists = []string{o.CCIDList}
	}
	if err := table.AddReaders(lists...); err != nil {
		// A node whose list is broken has tokens all the same.
		klog.FromContext(ctx).Error(err, "Going on without the list of readers")
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	discovery := New(Config{
		Matcher:        Matcher{Host: o.Host, Known: table, Node: o.NodeName},
		PodNamespace:   o.PodNamespace,
		PodName:        o.PodName,
		RescanInterval: o.RescanInterval,
		HSM:            hsmClient,
		Metadata:       metadataClient,
		Listen:         KernelEvents,
		Metrics:        NewMetrics(registry),
	})

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.ListenAddress)
	if err != nil {
		return fmt.Errorf("listen for /healthz and /metrics: %w", err)
	}
	server := &http.Server{Handler: handler(discovery, registry), ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener) //nolint:errcheck // it ends by Close only, or the health check fails
	defer server.Close()
	return discovery.Run(ctx)
}

func (o *Options) restConfig() (*rest.Config, error) {
	if o.Kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
}

// handler serves health and figures.
func handler(discovery *Discovery, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := discovery.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}
