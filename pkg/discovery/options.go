// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/discovery/deviceplugin"
	"j5t.io/hsm/pkg/discovery/dra"
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
	// DeviceAccess is how pods are given access to tokens: one of the constants below.
	DeviceAccess       string
	KubeletDir, CDIDir string
}

// How pods are given access to tokens.
const (
	AccessByDRA    = "dra"
	AccessByPlugin = "plugin"
	AccessByNone   = "none"
)

// NewOptions returns the defaults.
func NewOptions() *Options {
	return &Options{
		Host:           sysfs.DefaultHost(),
		RescanInterval: 30 * time.Second,
		ListenAddress:  ":8080",
		DeviceAccess:   AccessByDRA,
		KubeletDir:     "/var/lib/kubelet",
		CDIDir:         "/var/run/cdi",
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
	fs.StringVar(&o.DeviceAccess, "device-access", o.DeviceAccess,
		"How pods are given access to tokens: dra (Dynamic Resource Allocation, Kubernetes 1.34 or later), plugin (a device plugin of kubelet) or none.")
	fs.StringVar(&o.KubeletDir, "kubelet-dir", o.KubeletDir, "Folder of kubelet, at the same path as on the node.")
	fs.StringVar(&o.CDIDir, "cdi-dir", o.CDIDir, "Folder where the container runtime looks for CDI files of --device-access=dra.")
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
	if !slices.Contains([]string{AccessByDRA, AccessByPlugin, AccessByNone}, o.DeviceAccess) {
		errs = append(errs, fmt.Errorf("--device-access %q: must be %s, %s or %s", o.DeviceAccess, AccessByDRA, AccessByPlugin, AccessByNone))
	}
	for _, flag := range []struct{ name, value string }{{"--kubelet-dir", o.KubeletDir}, {"--cdi-dir", o.CDIDir}} {
		if !filepath.IsAbs(flag.value) {
			errs = append(errs, fmt.Errorf("%s %q: must be an absolute path", flag.name, flag.value))
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
	access, err := o.access(config)
	if err != nil {
		return err
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
		Access:         access,
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

// access is nil for none.
func (o *Options) access(config *rest.Config) (Access, error) {
	switch o.DeviceAccess {
	case AccessByDRA:
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("make a client of Kubernetes: %w", err)
		}
		return dra.New(dra.Config{Node: o.NodeName, Client: client, KubeletDir: o.KubeletDir, CDIDir: o.CDIDir, RescanInterval: o.RescanInterval}), nil
	case AccessByPlugin:
		return deviceplugin.New(filepath.Join(o.KubeletDir, "device-plugins")), nil
	}
	return nil, nil
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
