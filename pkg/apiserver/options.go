// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/admission"
	endpointsopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/flagz"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"

	"j5t.io/hsm/pkg/generated/openapi"
	"j5t.io/hsm/pkg/mtls"
)

// Options are the flags of the server.
type Options struct {
	Run         *genericoptions.ServerRunOptions
	Recommended *genericoptions.RecommendedOptions

	// AgentAddresses are agents, as host:port. If it is empty, the HSMPools name the
	// agents.
	AgentAddresses []string
	// AgentTLS authenticates this server to the agents, and the agents to it.
	AgentTLS mtls.Files
	// SystemNamespace is where HSMDevices and HSMPools are kept, as ConfigMaps.
	SystemNamespace string

	flags *pflag.FlagSet
}

const (
	// shutdownDelay is how long a server that was told to stop goes on serving, though
	// it is not ready: until no client sends new requests to it.
	shutdownDelay = 10 * time.Second
	// watchTermination is how long watches have to move to another replica.
	watchTermination = 10 * time.Second
)

// NewOptions returns the defaults: those of every Kubernetes API server, with quotas,
// without etcd, and with a shutdown during which no request fails. The
// terminationGracePeriodSeconds of the pod must cover both delays and
// --request-timeout.
func NewOptions() *Options {
	o := &Options{
		Run:             genericoptions.NewServerRunOptions(),
		Recommended:     genericoptions.NewRecommendedOptions("", nil),
		SystemNamespace: "hsm-system",
	}
	o.Recommended.Etcd = nil
	// Over HTTP/2, a server that stops loses the requests that are on their way to it:
	// Go's server names the last request that it has seen, once, and drops those that
	// come after. kube-apiserver cannot repeat requests with a body.
	o.Recommended.SecureServing.DisableHTTP2Serving = true
	o.Run.ShutdownDelayDuration = shutdownDelay
	o.Run.ShutdownSendRetryAfter = true
	o.Run.ShutdownWatchTerminationGracePeriod = watchTermination
	addResourceQuota(o.Recommended.Admission)
	o.Recommended.ExtraAdmissionInitializers = func(*genericapiserver.RecommendedConfig) ([]admission.PluginInitializer, error) {
		return []admission.PluginInitializer{countObjects{}}, nil
	}
	return o
}

// AddFlags adds the flags of all options.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	o.flags = fs
	o.Run.AddUniversalFlags(fs)
	o.Recommended.AddFlags(fs)
	fs.StringArrayVar(&o.AgentAddresses, "agent", o.AgentAddresses,
		"Address (host:port) of an agent that owns a token, whose certificate has that host; repeat it for further agents. "+
			"For development: without it, agents are found by the HSMPools, and have to be the very ones of their tokens.")
	fs.StringVar(&o.AgentTLS.CAFile, "agent-ca-file", o.AgentTLS.CAFile,
		"CA bundle (PEM) that signed the agents' serving certificates.")
	fs.StringVar(&o.AgentTLS.CertFile, "agent-cert-file", o.AgentTLS.CertFile,
		"Client certificate (PEM) that proves this server to the agents.")
	fs.StringVar(&o.AgentTLS.KeyFile, "agent-key-file", o.AgentTLS.KeyFile,
		"Private key (PEM) of --agent-cert-file.")
	fs.StringVar(&o.SystemNamespace, "system-namespace", o.SystemNamespace,
		"Namespace of the host cluster whose ConfigMaps hold HSMDevices and HSMPools.")
}

// Validate returns everything that is wrong with the options at once.
func (o *Options) Validate() error {
	errs := append(o.Run.Validate(), o.Recommended.Validate()...)
	for _, address := range o.AgentAddresses {
		if _, _, err := net.SplitHostPort(address); err != nil {
			errs = append(errs, fmt.Errorf("--agent %q: give host:port: %w", address, err))
		}
	}
	for flag, file := range map[string]string{
		"--agent-ca-file":   o.AgentTLS.CAFile,
		"--agent-cert-file": o.AgentTLS.CertFile,
		"--agent-key-file":  o.AgentTLS.KeyFile,
	} {
		if file == "" {
			errs = append(errs, fmt.Errorf("%s: needed to speak to the agents", flag))
		}
	}
	for _, problem := range validation.IsDNS1123Label(o.SystemNamespace) {
		errs = append(errs, fmt.Errorf("--system-namespace %q: %s", o.SystemNamespace, problem))
	}
	return utilerrors.NewAggregate(errs)
}

// Config turns valid options into the configuration of a server. So far it connects
// to the API server of the host cluster only.
func (o *Options) Config() (*Config, error) {
	if err := o.Recommended.SecureServing.MaybeDefaultWithSelfSignedCerts("localhost", nil, nil); err != nil {
		return nil, fmt.Errorf("make a self-signed serving certificate: %w", err)
	}

	generic := genericapiserver.NewRecommendedConfig(Codecs)
	namer := endpointsopenapi.NewDefinitionNamer(Scheme)
	generic.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	generic.OpenAPIConfig.Info.Title = "HSM"
	generic.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	generic.OpenAPIV3Config.Info.Title = "HSM"

	// Served at /flagz. No flag holds a secret: all are in files.
	generic.Flagz = flagz.NamedFlagSetsReader{FlagSets: cliflag.NamedFlagSets{FlagSets: map[string]*pflag.FlagSet{"": o.flags}}}

	if err := o.Run.ApplyTo(&generic.Config); err != nil {
		return nil, err
	}
	if err := o.Recommended.ApplyTo(generic); err != nil {
		return nil, err
	}

	// Each request to the host is for a request here, which flow control has admitted.
	// client-go's limit of 5 a second would delay the HSMPools of a few tokens.
	config := rest.CopyConfig(generic.ClientConfig)
	config.QPS = -1
	host, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the host cluster: %w", err)
	}
	return &Config{
		Generic: generic,
		Extra: ExtraConfig{
			Host:            host,
			SystemNamespace: o.SystemNamespace,
			AgentAddresses:  o.AgentAddresses,
			AgentTLS:        o.AgentTLS,
		},
	}, nil
}
