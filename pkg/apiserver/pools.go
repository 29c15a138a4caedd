// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/pkg/generated/informers/externalversions"
	"j5t.io/hsm/pkg/storage/hsm"
	"j5t.io/hsm/pkg/storebinding"
)

// poolsTimeout is how long a starting server waits to read the HSMPools before it is
// ready. If it cannot read them it becomes ready all the same: its other kinds, and
// discovery, need no agent.
const poolsTimeout = 10 * time.Second

// followPools gives the agents of all HSMPools to the client. It watches the HSMPools
// through this server, as any client does.
func followPools(agents *hsm.Client, systemNamespace string) genericapiserver.PostStartHookFunc {
	return func(hook genericapiserver.PostStartHookContext) error {
		client, err := versioned.NewForConfig(hook.LoopbackClientConfig)
		if err != nil {
			return err
		}
		factory := externalversions.NewSharedInformerFactory(client, 0)
		pools := factory.Hsm().V1alpha1().HSMPools()
		follow := func() {
			if !pools.Informer().HasSynced() {
				return // The list may not be complete yet.
			}
			// This lister never fails.
			if list, err := pools.Lister().List(labels.Everything()); err == nil {
				agents.SetAgents(agentsOf(list, systemNamespace))
			}
		}
		if _, err := pools.Informer().AddEventHandler(onChange(follow)); err != nil {
			return err
		}
		factory.Start(hook.Done())
		known := make(chan struct{})
		go func() {
			defer close(known)
			cache.WaitForCacheSync(hook.Done(), pools.Informer().HasSynced)
			follow() // There may be none, and so no event.
		}()
		select {
		case <-known:
		case <-time.After(poolsTimeout):
			klog.FromContext(hook).Info("The HSMPools have not been read yet: HSMSecrets are not served until they have")
		}
		return nil
	}
}

// followStoreBinding tells the client when somebody binds the cluster to another store.
func followStoreBinding(agents *hsm.Client, host kubernetes.Interface, systemNamespace string) genericapiserver.PostStartHookFunc {
	return func(hook genericapiserver.PostStartHookContext) error {
		factory := informers.NewSharedInformerFactoryWithOptions(host, 0, informers.WithNamespace(systemNamespace),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, storebinding.Name).String()
			}))
		bindings := factory.Core().V1().ConfigMaps()
		_, err := bindings.Informer().AddEventHandler(onChange(func() {
			storeID := "" // None, if there is no ConfigMap.
			if binding, err := bindings.Lister().ConfigMaps(systemNamespace).Get(storebinding.Name); err == nil {
				storeID = storebinding.StoreID(binding)
			}
			agents.SetBoundStore(storeID)
		}))
		factory.Start(hook.Done())
		return err
	}
}

func onChange(act func()) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { act() },
		UpdateFunc: func(any, any) { act() },
		DeleteFunc: func(any) { act() },
	}
}

// agentsOf returns the agents of all members that have one, whatever state the pools
// report: the agents know their state sooner. The order of the pools does not matter.
func agentsOf(pools []*v1alpha1.HSMPool, systemNamespace string) []hsm.Agent {
	agents := []hsm.Agent{}
	for _, pool := range pools {
		for _, member := range pool.Status.Members {
			if member.AgentEndpoint != "" {
				agents = append(agents, hsm.Agent{
					Address:    member.AgentEndpoint,
					ServerName: agentname.ServerName(member.SerialNumber, systemNamespace),
					Serial:     member.SerialNumber,
				})
			}
		}
	}
	slices.SortFunc(agents, func(a, b hsm.Agent) int {
		return cmp.Or(cmp.Compare(a.Serial, b.Serial), cmp.Compare(a.Address, b.Address))
	})
	return slices.Compact(agents)
}
