// SPDX-License-Identifier: Apache-2.0

// Package controller wires the controllers: clients, caches, leader election, health
// and metrics. Its sub-packages decide what is done in the cluster.
package controller

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/agents"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/pkg/controller/identity"
	"j5t.io/hsm/pkg/controller/pool"
	"j5t.io/hsm/pkg/controller/projection"
)

const (
	// cacheSyncTimeout is as good as none: while the token is away at the start, the caches
	// wait for it.
	cacheSyncTimeout = 365 * 24 * time.Hour
	// reconciliationTimeout is more than an API server takes for some requests.
	reconciliationTimeout = 2 * time.Minute
)

// New makes a manager with all controllers. Start it.
func New(ctx context.Context, base *rest.Config, o *Options) (manager.Manager, error) {
	log.SetLogger(klog.Background())
	// Each has a limit of its own: neither the lease nor work may wait for Events.
	leases, events, work := rest.CopyConfig(base), rest.CopyConfig(base), rest.CopyConfig(base)
	events.QPS, events.Burst = o.QPS, o.Burst
	work.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(o.QPS, o.Burst)

	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, authorizationv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	mgr, err := manager.New(work, manager.Options{
		Scheme:         scheme,
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return newMapper(), nil },
		// Writes depend on what is read: it comes from the API server, not from a cache.
		NewClient: func(c *rest.Config, options client.Options) (client.Client, error) {
			options.Cache = nil
			return client.New(c, options)
		},
		Cache: cache.Options{
			DefaultNamespaces:           namespaces(o.Namespaces),
			ByObject:                    projection.Cached(),
			NewInformer:                 projection.NewInformer,
			ReaderFailOnMissingInformer: true,
		},
		Controller: config.Controller{
			CacheSyncTimeout:      cacheSyncTimeout,
			ReconciliationTimeout: reconciliationTimeout,
			// A replica that waits is ready to take over.
			EnableWarmup: new(true),
		},
		LeaderElection:                o.LeaderElect,
		LeaderElectionID:              identity.Name,
		LeaderElectionNamespace:       o.SystemNamespace,
		LeaderElectionConfig:          leases,
		LeaderElectionReleaseOnCancel: true,
		Metrics: metricsserver.Options{
			BindAddress:   o.ListenAddress,
			ExtraHandlers: map[string]http.Handler{"/healthz": healthz.CheckHandler{Checker: healthz.Ping}},
		},
		Logger: klog.Background(),
	})
	if err != nil {
		return nil, fmt.Errorf("set up the controllers: %w", err)
	}
	recorder, err := newRecorder(ctx, events, scheme)
	if err != nil {
		return nil, fmt.Errorf("set up events: %w", err)
	}
	err = projection.Add(ctx, mgr, projection.Options{
		SystemNamespace: o.SystemNamespace,
		Concurrency:     o.Concurrency,
		Recorder:        recorder,
		Clock:           clock.RealClock{},
	})
	if err != nil {
		return nil, fmt.Errorf("set up the projection of HSMSecrets: %w", err)
	}
	ofPools, err := newSystemCache(mgr, o.SystemNamespace, pool.Cached(o.SystemNamespace))
	if err != nil {
		return nil, fmt.Errorf("set up the cache of HSMPools: %w", err)
	}
	ofAgentPods, err := newSystemCache(mgr, o.SystemNamespace, pool.CachedAgents(o.SystemNamespace))
	if err != nil {
		return nil, fmt.Errorf("set up the cache of agents: %w", err)
	}
	err = pool.Add(mgr, ofPools, ofAgentPods, pool.Options{
		SystemNamespace: o.SystemNamespace,
		Agents:          o.Agents,
		Recorder:        recorder,
		Clock:           clock.RealClock{},
	})
	if err != nil {
		return nil, fmt.Errorf("set up HSMPools: %w", err)
	}
	// The certificates have a cache of their own. A source waits for all that its cache holds,
	// and our API server, whose kinds the others hold, does not start without a certificate.
	var issuer certs.Issuer = certs.NewAuthorities(mgr.GetClient(), o.SystemNamespace, clock.RealClock{})
	if o.Certificates == certs.ByCertManager {
		issuer = certs.NewCertManager(mgr.GetClient(), o.SystemNamespace)
	}
	ofCerts, err := newSystemCache(mgr, o.SystemNamespace, certs.Cached(issuer))
	if err != nil {
		return nil, fmt.Errorf("set up the cache of certificates: %w", err)
	}
	if err := certs.Add(mgr, ofCerts, issuer); err != nil {
		return nil, fmt.Errorf("set up the certificates: %w", err)
	}
	if o.AgentImage != "" {
		ofAgents, err := newSystemCache(mgr, o.SystemNamespace, certs.Cached(issuer), agents.Cached(agents.DeviceAccess(o.DeviceAccess)))
		if err != nil {
			return nil, fmt.Errorf("set up the cache of agents: %w", err)
		}
		err = agents.Add(mgr, ofAgents, agents.Options{
			SystemNamespace: o.SystemNamespace,
			Image:           o.AgentImage,
			Access:          agents.DeviceAccess(o.DeviceAccess),
			Issuer:          issuer,
			Recorder:        recorder,
			Clock:           clock.RealClock{},
		})
		if err != nil {
			return nil, fmt.Errorf("set up the agents: %w", err)
		}
	}
	return mgr, nil
}

// newSystemCache makes a cache of what the system namespace holds, whatever the
// namespaces are whose HSMSecrets are projected.
func newSystemCache(mgr manager.Manager, namespace string, cached ...map[client.Object]cache.ByObject) (cache.Cache, error) {
	byObject := map[client.Object]cache.ByObject{}
	for _, objects := range cached {
		maps.Copy(byObject, objects)
	}
	c, err := cache.New(mgr.GetConfig(), cache.Options{
		Scheme:                      mgr.GetScheme(),
		Mapper:                      mgr.GetRESTMapper(),
		DefaultNamespaces:           namespaces([]string{namespace}),
		ByObject:                    byObject,
		NewInformer:                 projection.NewInformer,
		ReaderFailOnMissingInformer: true,
	})
	if err != nil {
		return nil, err
	}
	return c, mgr.Add(cacheRunnable{c})
}

// cacheRunnable is a cache that a manager starts before the controllers, on
// replicas that wait, too.
type cacheRunnable struct{ cache.Cache }

// GetCache marks it as a cache for the manager.
func (c cacheRunnable) GetCache() cache.Cache { return c.Cache }

// newMapper knows the kinds that the controllers use. It asks no API server: the controllers
// must start while one is away.
func newMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []schema.GroupVersionKind{
		v1alpha1.SchemeGroupVersion.WithKind("HSMSecret"), v1alpha1.SchemeGroupVersion.WithKind("HSMDevice"), v1alpha1.SchemeGroupVersion.WithKind("HSMPool"),
		corev1.SchemeGroupVersion.WithKind("Secret"), corev1.SchemeGroupVersion.WithKind("Pod"), appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
		appsv1.SchemeGroupVersion.WithKind("Deployment"), appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
		corev1.SchemeGroupVersion.WithKind("ConfigMap"), corev1.SchemeGroupVersion.WithKind("Service"),
		corev1.SchemeGroupVersion.WithKind("ServiceAccount"), resourcev1.SchemeGroupVersion.WithKind("ResourceClaim"),
		certs.CertificateKind,
	} {
		mapper.Add(kind, meta.RESTScopeNamespace)
		// A cache of listed namespaces asks for the kind of the list.
		kind.Kind += "List"
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	mapper.Add(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"), meta.RESTScopeRoot)
	mapper.Add(schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"}, meta.RESTScopeRoot)
	return mapper
}

func namespaces(names []string) map[string]cache.Config {
	configs := map[string]cache.Config{}
	for _, name := range names {
		configs[name] = cache.Config{}
	}
	return configs
}

// newRecorder records Events until the context ends. client-go's recorder merges similar
// Events of one object and limits their rate.
func newRecorder(ctx context.Context, c *rest.Config, scheme *runtime.Scheme) (record.EventRecorder, error) {
	events, err := typedcorev1.NewForConfig(c)
	if err != nil {
		return nil, err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: events.Events("")})
	return broadcaster.NewRecorder(scheme, corev1.EventSource{Component: identity.Name}), nil
}
