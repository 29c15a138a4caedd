// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/membership"
)

// gather reads the caches, and the agents' last answers.
func (r *reconciler) gather(ctx context.Context) (*facts, error) {
	f := &facts{now: r.clock.Now(), discoveryPods: noDaemonSet, written: r.written}
	if r.start.IsZero() {
		r.start = f.now
	}
	var devices v1alpha1.HSMDeviceList
	var pools v1alpha1.HSMPoolList
	var daemonSets appsv1.DaemonSetList
	var pods, agentPods corev1.PodList
	if err := errors.Join(
		r.objects.List(ctx, &devices), r.objects.List(ctx, &pools),
		r.objects.List(ctx, &daemonSets, client.InNamespace(r.namespace)),
		r.objects.List(ctx, &pods, client.InNamespace(r.namespace)),
		r.agents.List(ctx, &agentPods, client.InNamespace(r.namespace)),
	); err != nil {
		return nil, fmt.Errorf("read the caches: %w", err)
	}
	for i := range devices.Items {
		if devices.Items[i].DeletionTimestamp == nil {
			f.devices = append(f.devices, &devices.Items[i])
		}
	}
	f.pools = r.latestOf(pools.Items)
	var daemonSet *appsv1.DaemonSet
	if len(daemonSets.Items) > 0 {
		daemonSet = &daemonSets.Items[0]
		f.discoveryPods = daemonSet.Status.DesiredNumberScheduled
	}
	r.refusals.keep(pods.Items)
	f.nodes = nodesOf(pods.Items, daemonSet, f.now, r.recordRefusal)
	r.restoreReports(f)
	f.agents = agentsByName(agentPods.Items)
	answers := r.poller.lastAnswers()
	for name, a := range f.agents {
		if endpoint, polled := r.endpoints[name]; polled && endpoint.Address == a.endpoint() {
			a.answer = answers[endpoint]
			f.agents[name] = a
		}
	}
	return f, nil
}

// latestOf takes for each pool what was written last, if the cache does not show it yet.
// Pools that are being deleted are left out.
func (r *reconciler) latestOf(cached []v1alpha1.HSMPool) []*v1alpha1.HSMPool {
	var pools []*v1alpha1.HSMPool
	there := map[key]bool{}
	for i := range cached {
		pool := &cached[i]
		name := keyOf(pool)
		there[name] = true
		if latest := r.latest[name]; latest != nil && latest.UID == pool.UID {
			order, err := resourceversion.CompareResourceVersion(pool.ResourceVersion, latest.ResourceVersion)
			if err == nil && order < 0 {
				pool = latest.DeepCopy()
			}
		}
		if pool.DeletionTimestamp == nil {
			pools = append(pools, pool)
		}
	}
	for name := range r.latest {
		if !there[name] {
			delete(r.latest, name)
			delete(r.written, name)
		}
	}
	return pools
}

// restoreReports adds the last reports of nodes whose pods are gone.
func (r *reconciler) restoreReports(f *facts) {
	uids := map[key]types.UID{}
	for _, device := range f.devices {
		uids[keyOf(device)] = device.UID
	}
	for device, uid := range r.deviceUIDs {
		if uids[device] != uid {
			r.lastReports.dropDevice(device)
		}
	}
	r.deviceUIDs = uids
	var listed []string
	longest := membership.DefaultGracePeriod
	for _, pool := range f.pools {
		longest = max(longest, membership.GracePeriod(pool))
		for i := range pool.Status.AggregatedDevices {
			listed = append(listed, pool.Status.AggregatedDevices[i].NodeName)
		}
		for i := range pool.Status.ReportingPods {
			listed = append(listed, pool.Status.ReportingPods[i].NodeName)
		}
	}
	if oldest := f.now.Add(-longest); r.start.Before(oldest) {
		r.lastReports.dropOlder(oldest)
	}
	r.lastReports.restore(f.nodes, listed, r.start)
}
