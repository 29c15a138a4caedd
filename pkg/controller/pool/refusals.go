// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// refusals limits the Events of reports that do not count.
type refusals struct {
	limiter *rate.Limiter
	last    map[types.UID]refusal // By pod.
}

type refusal struct {
	resourceVersion, message string
	at                       time.Time
}

const (
	// refusalInterval is the shortest time between two Events of one pod with the same
	// message. All pods together have refusalBurst Events at once, and then one in each
	// refusalPeriod.
	refusalInterval = 10 * time.Minute
	refusalBurst    = 20
	refusalPeriod   = 10 * time.Second
)

func newRefusals() *refusals {
	return &refusals{limiter: rate.NewLimiter(rate.Every(refusalPeriod), refusalBurst), last: map[types.UID]refusal{}}
}

// due reports whether an Event of a pod's report is due.
func (r *refusals) due(pod *corev1.Pod, message string, now time.Time) bool {
	last, found := r.last[pod.UID]
	if found && last.resourceVersion == pod.ResourceVersion {
		return false
	}
	refusedReports.Inc()
	again := found && last.message == message && now.Before(last.at.Add(refusalInterval))
	if again || !r.limiter.AllowN(now, 1) {
		if found {
			last.resourceVersion = pod.ResourceVersion
			r.last[pod.UID] = last
		}
		return false
	}
	r.last[pod.UID] = refusal{pod.ResourceVersion, message, now}
	return true
}

// keep forgets all pods but these.
func (r *refusals) keep(pods []corev1.Pod) {
	there := map[types.UID]bool{}
	for i := range pods {
		there[pods[i].UID] = true
	}
	for uid := range r.last {
		if !there[uid] {
			delete(r.last, uid)
		}
	}
}

// recordRefusal makes an Event of a pod whose report does not count, if it is due.
func (r *reconciler) recordRefusal(pod *corev1.Pod, err error) {
	if !r.refusals.due(pod, err.Error(), r.clock.Now()) {
		return
	}
	klog.InfoS("A report does not count", "pod", klog.KObj(pod), "node", pod.Spec.NodeName, "reason", truncate(err.Error()))
	r.recorder.Eventf(pod, corev1.EventTypeWarning, eventReportRefused, "The device report does not count: %s", truncate(err.Error()))
}
