// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"j5t.io/hsm/pkg/controller/agents"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/pkg/mtls"
)

// Options are what the command line of the controller can say.
type Options struct {
	// Kubeconfig names the cluster; empty is the one that this pod runs in.
	Kubeconfig string
	// SystemNamespace holds the lease of the leader, the key of checksums, the agents
	// and the certificates.
	SystemNamespace string
	// Namespaces are those whose HSMSecrets are projected; none is all.
	Namespaces []string
	// LeaderElect lets one of several replicas act.
	LeaderElect bool
	// QPS and Burst limit the requests to the API server, of all clients together.
	QPS   float32
	Burst int
	// Concurrency is how many HSMSecrets are synced at once.
	Concurrency int
	// Agents prove the controller to agents, and agents to the controller.
	Agents mtls.Files
	// AgentImage is the image of agents; if it is empty, none are deployed.
	AgentImage string
	// DeviceAccess is how agents get access to their devices: dra, plugin or none.
	DeviceAccess string
	// Certificates is who makes them: own or cert-manager.
	Certificates string
	// ListenAddress is where /healthz and /metrics are served.
	ListenAddress string
}

// ownCertificates: the controller makes the certificates itself.
const ownCertificates = "own"

// NewOptions returns the defaults. They are good for a thousand HSMSecrets.
func NewOptions() *Options {
	return &Options{
		SystemNamespace: "hsm-system",
		LeaderElect:     true,
		QPS:             200,
		Burst:           400,
		Concurrency:     8,
		DeviceAccess:    string(agents.AccessDRA),
		Certificates:    ownCertificates,
		ListenAddress:   ":8080",
	}
}

// AddFlags adds the flags of all options.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "Kubeconfig of the cluster. Default: the pod's ServiceAccount.")
	fs.StringVar(&o.SystemNamespace, "system-namespace", o.SystemNamespace,
		"Namespace that holds the lease of the leader and the key of checksums.")
	fs.StringSliceVar(&o.Namespaces, "namespaces", o.Namespaces,
		"Namespaces whose HSMSecrets are projected, separated by commas; the controller needs rights to HSMSecrets and Secrets in these only. Default: all.")
	fs.BoolVar(&o.LeaderElect, "leader-elect", o.LeaderElect, "Let one replica act, and the others wait to take over.")
	fs.Float32Var(&o.QPS, "kube-api-qps", o.QPS, "Requests a second to the API server.")
	fs.IntVar(&o.Burst, "kube-api-burst", o.Burst, "Requests at once to the API server.")
	fs.IntVar(&o.Concurrency, "concurrency", o.Concurrency, "HSMSecrets that are synced at once.")
	fs.StringVar(&o.Agents.CAFile, "agent-ca-file", o.Agents.CAFile, "PEM file of the authorities that sign the agents' certificates.")
	fs.StringVar(&o.Agents.CertFile, "agent-cert-file", o.Agents.CertFile, "PEM file of the certificate by which agents know the controller.")
	fs.StringVar(&o.Agents.KeyFile, "agent-key-file", o.Agents.KeyFile, "PEM file of its private key.")
	fs.StringVar(&o.AgentImage, "agent-image", o.AgentImage, "Image of the agents that are deployed, one for each token. Default: none are deployed.")
	fs.StringVar(&o.DeviceAccess, "device-access", o.DeviceAccess,
		"How agents get at their tokens, as discovery gives access: dra (Dynamic Resource Allocation, Kubernetes 1.34 or later), plugin (a device plugin of kubelet) or none, for tokens that are no devices, as those of SoftHSM.")
	fs.StringVar(&o.Certificates, "certificates", o.Certificates,
		"Who makes the certificates of all parts: own, the controller, with authorities of its own; or cert-manager, with its Issuers hsm-agents and hsm-apiserver-serving of the system namespace.")
	fs.StringVar(&o.ListenAddress, "listen-address", o.ListenAddress, "Address (host:port) of /healthz and /metrics.")
}

// Validate says what is wrong with the options, all of it at once.
func (o *Options) Validate() error {
	var errs []error
	for flag, namespaces := range map[string][]string{"--system-namespace": {o.SystemNamespace}, "--namespaces": o.Namespaces} {
		for _, namespace := range namespaces {
			for _, problem := range validation.IsDNS1123Label(namespace) {
				errs = append(errs, fmt.Errorf("%s %q: %s", flag, namespace, problem))
			}
		}
	}
	if o.QPS <= 0 {
		errs = append(errs, fmt.Errorf("--kube-api-qps %g: must be more than 0", o.QPS))
	}
	for flag, number := range map[string]int{"--kube-api-burst": o.Burst, "--concurrency": o.Concurrency} {
		if number < 1 {
			errs = append(errs, fmt.Errorf("%s %d: must be at least 1", flag, number))
		}
	}
	if set := o.Agents != (mtls.Files{}); set && (o.Agents.CAFile == "" || o.Agents.CertFile == "" || o.Agents.KeyFile == "") {
		errs = append(errs, errors.New("--agent-ca-file, --agent-cert-file, --agent-key-file: all or none must be set"))
	}
	if access := agents.DeviceAccess(o.DeviceAccess); !slices.Contains([]agents.DeviceAccess{agents.AccessDRA, agents.AccessPlugin, agents.AccessNone}, access) {
		errs = append(errs, fmt.Errorf("--device-access %q: must be %s, %s or %s", access, agents.AccessDRA, agents.AccessPlugin, agents.AccessNone))
	}
	if o.Certificates != ownCertificates && o.Certificates != certs.ByCertManager {
		errs = append(errs, fmt.Errorf("--certificates %q: must be %s or %s", o.Certificates, ownCertificates, certs.ByCertManager))
	}
	if o.ListenAddress == "" {
		errs = append(errs, errors.New("--listen-address: must be set"))
	}
	return utilerrors.NewAggregate(errs)
}

// Run runs the controller with valid options until the context ends, or it is
// no longer the leader.
func (o *Options) Run(ctx context.Context) error {
	config, err := o.restConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	mgr, err := New(ctx, config, o)
	if err != nil {
		return err
	}
	return mgr.Start(ctx)
}

func (o *Options) restConfig() (*rest.Config, error) {
	if o.Kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
}
