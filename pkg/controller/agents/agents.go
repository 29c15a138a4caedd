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

// What is remembered of an agent on its Deployment. DevicePathAnnotation is on its
// pods as well, which are replaced when it changes.
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

// DeviceAccess is how an agent's pod gets at the device. Discovery has to give access in the
// same way.
type DeviceAccess string

const (
	// AccessDRA: by a ResourceClaim, which needs Kubernetes 1.34.
	AccessDRA DeviceAccess = "dra"
	// AccessPlugin: by the extended resource that is this one token. Nothing of
	// resource.k8s.io is touched.
	AccessPlugin DeviceAccess = "plugin"
	// AccessNone: not at all. For tokens that are no device of the node, as SoftHSM.
	AccessNone DeviceAccess = "none"
)

// Options are what Add needs beside the manager.
type Options struct {
	// SystemNamespace is where the agents run.
	SystemNamespace string
	// Image is that of the agents.
	Image string
	// Access is how they get at their devices.
	Access DeviceAccess
	// Issuer makes their certificates.
	Issuer certs.Issuer
	// Recorder takes events of HSMDevices and HSMPools.
	Recorder record.EventRecorder
	// Clock tells the time.
	Clock clock.PassiveClock
}

// kinds are those that an agent is made of, beside its certificate. The Deployment comes
// last, and goes first.
func (a DeviceAccess) kinds() []schema.GroupVersionKind {
	kinds := []schema.GroupVersionKind{deploymentKind, serviceKind, serviceAccountKind}
	if a == AccessDRA {
		kinds = append(kinds, claimKind)
	}
	return kinds
}

type reconciler struct {
	Options
	// kinds are all that an agent is made of, in the order in which they go.
	kinds   []schema.GroupVersionKind
	client  client.Client
	applied *applied
	// told are the notes that were told already.
	told map[told]bool
}

// told is a note without the state of the object that it is about.
type told struct {
	device          types.NamespacedName
	reason, message string
}

func (n note) told() told { return told{n.device, n.reason, n.message} }

// present are the agents' objects as they were listed: by kind and name, the
// metadata.
type present map[schema.GroupVersionKind]map[string]*metav1.PartialObjectMetadata

// Reconcile brings all agents to what they are to be.
func (r *reconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	there, err := r.list(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	f, err := r.facts(ctx, there)
	if err != nil {
		return reconcile.Result{}, err
	}
	p := f.makePlan()
	work := r.findPINs(ctx, f, &p)
	wanted := map[string]bool{}
	for _, w := range work {
		wanted[w.name()] = true
	}
	// One that fails is in nobody's way.
	errs := []error{r.remove(ctx, there, wanted)}
	for _, w := range work {
		err := w.err
		if err == nil {
			err = r.ensure(ctx, there, f, w.agent, w.pin)
		}
		if err == nil {
			err = r.provision(ctx, f, w.agent, &p)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("agent %s of HSMDevice %s: %w", w.name(), w.device, err))
		}
	}
	r.tell(f, p.notes)
	return reconcile.Result{RequeueAfter: r.next(f.now, p.again, work)}, errors.Join(errs...)
}

// job is an agent that is to be, with its PIN, or why that is not known.
type job struct {
	agent
	pin pin
	err error
}

// next is when to look again though nothing is seen to change.
func (r *reconciler) next(now, again time.Time, work []job) time.Duration {
	wait := resync
	for _, w := range work {
		if w.pin.isCopy {
			wait = copyInterval // Of the Secrets of other namespaces, no event comes.
		}
	}
	if !again.IsZero() {
		wait = min(wait, max(again.Sub(now), time.Second))
	}
	return wait
}

func (r *reconciler) list(ctx context.Context) (present, error) {
	there := present{}
	for _, kind := range r.kinds {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind)
		if err := r.client.List(ctx, list, client.InNamespace(r.SystemNamespace), client.HasLabels{agentname.ObjectLabel}); err != nil {
			return nil, fmt.Errorf("list the agents' objects of kind %s: %w", kind.Kind, err)
		}
		there[kind] = map[string]*metav1.PartialObjectMetadata{}
		for i := range list.Items {
			there[kind][list.Items[i].Name] = &list.Items[i]
		}
	}
	return there, nil
}

func (r *reconciler) facts(ctx context.Context, there present) (*facts, error) {
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
	for _, deployment := range there[deploymentKind] {
		if a, ok := remembered(deployment); ok && deployment.DeletionTimestamp == nil {
			f.deployed = append(f.deployed, a)
		}
	}
	return f, nil
}

// remembered is the agent of a Deployment.
func remembered(deployment *metav1.PartialObjectMetadata) (agent, bool) {
	note := deployment.Annotations
	a := agent{serial: note[SerialAnnotation], place: place{node: note[NodeAnnotation], path: note[DevicePathAnnotation]}, hint: note[StoreIDAnnotation]}
	a.device.Namespace, a.device.Name, _ = strings.Cut(note[DeviceAnnotation], string(types.Separator))
	if since, err := time.Parse(time.RFC3339, note[AbsentSinceAnnotation]); err == nil {
		a.absent = since
	}
	return a, a.serial != "" && a.name() == deployment.Name
}

// tell makes Events of what was not told yet.
func (r *reconciler) tell(f *facts, notes []note) {
	told := map[told]bool{}
	for _, n := range notes {
		what := n.told()
		isNew := !r.told[what] && !told[what]
		told[what] = true
		var about runtime.Object
		if device := f.devices[n.device]; n.pool != nil {
			about = n.pool
		} else if device != nil {
			about = device
		}
		if about == nil || !isNew {
			continue
		}
		kind := corev1.EventTypeNormal
		if n.warning {
			kind = corev1.EventTypeWarning
		}
		r.Recorder.Event(about, kind, n.reason, n.message)
	}
	r.told = told
}
