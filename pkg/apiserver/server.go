// SPDX-License-Identifier: Apache-2.0

// Package apiserver builds the API server of hsm.j5t.io from its options: it joins
// the generic server of Kubernetes, the REST semantics of pkg/registry and the
// storage of pkg/storage. It never speaks to a token, and needs none to start or to
// stay healthy.
package apiserver

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	hsmapi "j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/registry/hsm/hsmdevice"
	"j5t.io/hsm/pkg/registry/hsm/hsmpool"
	"j5t.io/hsm/pkg/registry/hsm/hsmsecret"
	"j5t.io/hsm/pkg/storage/configmap"
	"j5t.io/hsm/pkg/storage/namespaces"
	"j5t.io/hsm/pkg/storage/records"
)

// Config configures a server. Complete it to make one.
type Config struct {
	Generic *genericapiserver.RecommendedConfig
	Extra   ExtraConfig
}

// ExtraConfig is what this server needs beyond the generic API server.
type ExtraConfig struct {
	// Host is a client of the cluster that the server is part of.
	Host kubernetes.Interface
	// SystemNamespace is where HSMDevices and HSMPools are kept, as ConfigMaps.
	SystemNamespace string
	// AgentAddresses are agents, as host:port. If it is empty, the HSMPools name the
	// agents.
	AgentAddresses []string
	// AgentTLS authenticates this server to the agents, and the agents to it.
	AgentTLS mtls.Files
}

type completedConfig struct {
	generic genericapiserver.CompletedConfig
	extra   *ExtraConfig
}

// CompletedConfig can only be made by Config.Complete.
type CompletedConfig struct {
	*completedConfig
}

// Complete fills in what can be derived.
func (c *Config) Complete() CompletedConfig {
	return CompletedConfig{&completedConfig{generic: c.Generic.Complete(), extra: &c.Extra}}
}

// New makes the server. It connects to an agent when the first request needs one.
func (c CompletedConfig) New() (*genericapiserver.GenericAPIServer, error) {
	agents, err := c.newAgents()
	if err != nil {
		return nil, err
	}
	serializer := withoutProtobuf{Codecs}
	build := c.generic.BuildHandlerChainFunc
	c.generic.BuildHandlerChainFunc = func(handler http.Handler, config *genericapiserver.Config) http.Handler {
		handler = withAgentStates(handler, agents, config.Authorization.Authorizer)
		handler = build(withRetryAfter(withMetadataOnly(handler, serializer), clock.RealClock{}), config)
		return withConnectionClose(handler, config.ShutdownInitiatedNotify(), config.RequestInfoResolver)
	}
	server, err := c.generic.New("hsm-apiserver", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, err
	}

	// nil if the server trusts no request headers of kube-apiserver.
	if config := c.generic.Authentication.RequestHeaderConfig; config != nil {
		if err := server.AddPostStartHook("authentication-config", waitForAuthenticationConfig(config)); err != nil {
			return nil, err
		}
	}

	server.Handler.NonGoRestfulMux.Handle(agentsPath, agentStates(agents.Check))
	// After the requests under way have been served.
	server.RegisterDestroyFunc(func() { _ = agents.Close() })
	if err := c.followAgents(server, agents); err != nil {
		return nil, err
	}

	secretsResource := hsmapi.Resource("hsmsecrets")
	secretsBackend := namespaces.New(agents, "/"+resourcePrefix(secretsResource)+"/", secretsResource.Resource, namespaces.Host{
		Client:          c.extra.Host.CoreV1(),
		SystemNamespace: c.extra.SystemNamespace,
		Namespaces:      c.generic.SharedInformerFactory.Core().V1().Namespaces().Lister(),
	})
	configMaps := configmap.Decorator(c.extra.Host.CoreV1(), c.extra.SystemNamespace)
	options := &restOptions{
		codec: Codecs.LegacyCodec(v1alpha1.SchemeGroupVersion),
		decorators: map[schema.GroupResource]generic.StorageDecorator{
			secretsResource: records.Decorator(
				func(schema.GroupResource) records.Backend { return secretsBackend }, hsmsecret.NewLayout),
			hsmapi.Resource("hsmdevices"): configMaps,
			hsmapi.Resource("hsmpools"):   configMaps,
		},
		tracker: c.generic.StorageObjectCountTracker,
	}

	secrets, secretStatus, err := hsmsecret.NewStorage(Scheme, options, c.generic.Authorization.Authorizer)
	if err != nil {
		return nil, err
	}
	devices, err := hsmdevice.NewStorage(Scheme, options)
	if err != nil {
		return nil, err
	}
	pools, poolStatus, err := hsmpool.NewStorage(Scheme, options)
	if err != nil {
		return nil, err
	}

	group := genericapiserver.NewDefaultAPIGroupInfo(hsmapi.GroupName, Scheme, metav1.ParameterCodec, Codecs)
	group.NegotiatedSerializer = serializer
	group.VersionedResourcesStorageMap[v1alpha1.SchemeGroupVersion.Version] = map[string]rest.Storage{
		"hsmsecrets":        secrets,
		"hsmsecrets/status": secretStatus,
		"hsmdevices":        devices,
		"hsmpools":          pools,
		"hsmpools/status":   poolStatus,
	}
	if err := server.InstallAPIGroup(&group); err != nil {
		return nil, err
	}
	return server, nil
}
