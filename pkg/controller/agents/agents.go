// SPDX-License-Identifier: Apache-2.0

// Package agents runs one agent for each token that a pool has found: its
// Deployment and all that this needs, in the system namespace. It never writes a
// pool, never removes an agent at once because its token is not seen, and never
// touches what an agent has written on its node.
package agents

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/certs"
)

// The annotations of an agent's Deployment, from which the next decision knows it.
// DevicePathAnnotation is on its pods as well, which are replaced when it changes.
const (
	SerialAnnotation      = "hsm.j5t.io/serial-number"
	DeviceAnnotation      = "hsm.j5t.io/hsmdevice"
	NodeAnnotation        = "hsm.j5t.io/node"
	DevicePathAnnotation  = "hsm.j5t.io/device-path"
	AbsentSinceAnnotation = "hsm.j5t.io/absent-since"
	StoreIDAnnotation     = "hsm.j5t.io/store-id"
)

var (
	deploymentKind     = appsv1.SchemeGroupVersion.WithKind("Deployment")
	serviceKind        = corev1.SchemeGroupVersion.WithKind("Service")
	serviceAccountKind = corev1.SchemeGroupVersion.WithKind("ServiceAccount")
	claimKind          = resourcev1.SchemeGroupVersion.WithKind("ResourceClaim")
	secretKind         = corev1.SchemeGroupVersion.WithKind("Secret")

	hsmDeviceKind = v1alpha1.SchemeGroupVersion.WithKind("HSMDevice")
)

// DeviceAccess is how an agent's pod gets access to the device. Discovery must give access
// in the same way.
type DeviceAccess string

const (
	// AccessDRA: by a ResourceClaim, which needs Kubernetes 1.34.
	AccessDRA DeviceAccess = "dra"
	// AccessPlugin: by the extended resource that is this one token. Nothing of
	// resource.k8s.io is touched.
	AccessPlugin DeviceAccess = "plugin"
	// AccessNone: not at all. For tokens that are no device of the node, such as SoftHSM's.
	AccessNone DeviceAccess = "none"
)

// Options are what Add needs beside the manager.
type Options struct {
	// SystemNamespace is where the agents run.
	SystemNamespace string
	// Image is that of the agents.
	Image string
	// Access is how they get access to their devices.
	Access DeviceAccess
	// Issuer makes their certificates.
	Issuer certs.Issuer
	// Recorder takes events of HSMDevices and HSMPools.
	Recorder record.EventRecorder
	// Clock is the time.
	Clock clock.PassiveClock
}

// kinds are those of an agent's objects, beside its certificate. The Deployment is made
// last, and deleted first.
func (a DeviceAccess) kinds() []schema.GroupVersionKind {
	kinds := []schema.GroupVersionKind{deploymentKind, serviceKind, serviceAccountKind}
	if a == AccessDRA {
		kinds = append(kinds, claimKind)
	}
	return kinds
}

type reconciler struct {
	Options
	// kinds are those of all of an agent's objects, in the order of their deletion.
	kinds   []schema.GroupVersionKind
	client  client.Client
	applied *applied
	// reported are the notices of which Events were made.
	reported map[noticeKey]bool
}

// noticeKey is a notice without the state of the object that it is about.
type noticeKey struct {
	device          types.NamespacedName
	reason, message string
}

func (n notice) key() noticeKey { return noticeKey{n.device, n.reason, n.message} }

// existingObjects are the agents' objects as they were listed: metadata by kind and name.
type existingObjects map[schema.GroupVersionKind]map[string]*metav1.PartialObjectMetadata

// Reconcile makes, changes and removes agents as was decided.
func (r *reconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	existing, err := r.list(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	f, err := r.facts(ctx, existing)
	if err != nil {
		return reconcile.Result{}, err
	}
	p := f.makePlan()
	agents := r.findPINs(ctx, f, &p)
	wanted := map[string]bool{}
	for _, w := range agents {
		wanted[w.name()] = true
	}
	// A failure of one agent does not hold up the others.
	errs := []error{r.remove(ctx, existing, wanted)}
	for _, w := range agents {
		err := w.err
		if err == nil {
			err = r.ensure(ctx, existing, f, w.agent, w.pin)
		}
		if err == nil {
			err = r.provision(ctx, f, w.agent, &p)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("agent %s of HSMDevice %s: %w", w.name(), w.device, err))
		}
	}
	r.recordEvents(f, p.notices)
	return reconcile.Result{RequeueAfter: r.recheckAfter(f.now, p.next, agents)}, errors.Join(errs...)
}

// desiredAgent is an agent that is to run, with its PIN, or why that is not known.
type desiredAgent struct {
	agent
	pin pin
	err error
}

// recheckAfter is when to decide anew though no watch shows a change.
func (r *reconciler) recheckAfter(now, next time.Time, agents []desiredAgent) time.Duration {
	wait := resync
	for _, w := range agents {
		if w.pin.isCopy {
			wait = copyInterval // The Secrets of other namespaces are not watched.
		}
	}
	if !next.IsZero() {
		wait = min(wait, max(next.Sub(now), time.Second))
	}
	return wait
}

func (r *reconciler) list(ctx context.Context) (existingObjects, error) {
	existing := existingObjects{}
	for _, kind := range r.kinds {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind)
		if err := r.client.List(ctx, list, client.InNamespace(r.SystemNamespace), client.HasLabels{agentname.ObjectLabel}); err != nil {
			return nil, fmt.Errorf("list the agents' objects of kind %s: %w", kind.Kind, err)
		}
		existing[kind] = map[string]*metav1.PartialObjectMetadata{}
		for i := range list.Items {
			existing[kind][list.Items[i].Name] = &list.Items[i]
		}
	}
	return existing, nil
}

func (r *reconciler) facts(ctx context.Context, existing existingObjects) (*facts, error) {
	devices, pools := &v1alpha1.HSMDeviceList{}, &v1alpha1.HSMPoolList{}
	if err := r.client.List(ctx, devices); err != nil {
		return nil, fmt.Errorf("list HSMDevices: %w", err)
	}
	if err := r.client.List(ctx, pools); err != nil {
		return nil, fmt.Errorf("list HSMPools: %w", err)
	}
	f := &facts{now: r.Clock.Now(), devices: map[types.NamespacedName]*v1alpha1.HSMDevice{}}
	for i := range pools.Items {
		f.pools = append(f.pools, &pools.Items[i])
	}
	for i := range devices.Items {
		f.devices[client.ObjectKeyFromObject(&devices.Items[i])] = &devices.Items[i]
	}
	for _, deployment := range existing[deploymentKind] {
		if a, ok := agentOfDeployment(deployment); ok && deployment.DeletionTimestamp == nil {
			f.deployed = append(f.deployed, a)
		}
	}
	return f, nil
}

// agentOfDeployment reads the annotations of a Deployment; false if they are not an agent's.
func agentOfDeployment(deployment *metav1.PartialObjectMetadata) (agent, bool) {
	annotations := deployment.Annotations
	a := agent{serial: annotations[SerialAnnotation], place: place{node: annotations[NodeAnnotation], path: annotations[DevicePathAnnotation]}, hint: annotations[StoreIDAnnotation]}
	a.device.Namespace, a.device.Name, _ = strings.Cut(annotations[DeviceAnnotation], string(types.Separator))
	if since, err := time.Parse(time.RFC3339, annotations[AbsentSinceAnnotation]); err == nil {
		a.absentSince = since
	}
	return a, a.serial != "" && a.name() == deployment.Name
}

// recordEvents makes Events of the notices that are new.
func (r *reconciler) recordEvents(f *facts, notices []notice) {
	reported := map[noticeKey]bool{}
	for _, n := range notices {
		isNew := !r.reported[n.key()] && !reported[n.key()]
		reported[n.key()] = true
		var about runtime.Object
		if device := f.devices[n.device]; n.pool != nil {
			about = n.pool
		} else if device != nil {
			about = device
		}
		if about == nil || !isNew {
			continue
		}
		eventType := corev1.EventTypeNormal
		if n.warning {
			eventType = corev1.EventTypeWarning
		}
		r.Recorder.Event(about, eventType, n.reason, n.message)
	}
	r.reported = reported
}
