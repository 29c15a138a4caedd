// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	genericoptions "k8s.io/apiserver/pkg/server/options"
)

// addResourceQuota lets ResourceQuotas of the host cluster bound how many
// objects of each kind a namespace has (count/hsmsecrets.hsm.j5t.io).
// kube-controller-manager counts the objects; only the server that creates an object
// can refuse it. The plugin is last, as in kube-apiserver: an object that another
// plugin refuses is not charged.
func addResourceQuota(o *genericoptions.AdmissionOptions) {
	resourcequota.Register(o.Plugins)
	o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, resourcequota.PluginName)
}

// countObjects configures quotas to count objects, and nothing else.
type countObjects struct{}

var _ admission.PluginInitializer = countObjects{}

// Initialize implements admission.PluginInitializer.
func (countObjects) Initialize(plugin admission.Interface) {
	if quota, ok := plugin.(initializer.WantsQuotaConfiguration); ok {
		quota.SetQuotaConfiguration(generic.NewConfiguration(nil, nil))
	}
}
