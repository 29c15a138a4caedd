// SPDX-License-Identifier: Apache-2.0

package agents_test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	controllerconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/agents"
	"j5t.io/hsm/pkg/controller/certs"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/controlplane"
	"j5t.io/hsm/test/framework/suite"
)

const (
	system    = "hsm-system"
	team      = "team"
	manifests = "../../../artifacts/deploy/base"
	patience  = time.Minute
)

// definitions stand in for our own API server.
const definitions = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hsmdevices.hsm.j5t.io}
spec:
  group: hsm.j5t.io
  scope: Namespaced
  names: {kind: HSMDevice, plural: hsmdevices}
  versions:
  - {name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hsmpools.hsm.j5t.io}
spec:
  group: hsm.j5t.io
  scope: Namespaced
  names: {kind: HSMPool, plural: hsmpools}
  versions:
  - {name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a control plane with the controller's manifests, and the controllers of
// certificates and agents with exactly the rights of its ServiceAccount.
type rig struct {
	*controlplane.ControlPlane
	t      *testing.T
	ctx    context.Context
	client client.Client // Of an administrator.
	clock  *clocktesting.FakePassiveClock
	events chan string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	plane := suite.StartControlPlane(t, controlplane.Options{ControllerManager: true})
	r := &rig{ControlPlane: plane, t: t, ctx: t.Context(), clock: clocktesting.NewFakePassiveClock(time.Now())}
	var err error
	r.client, err = client.New(plane.Admin, client.Options{Scheme: scheme(t)})
	must(t, err)
	for _, file := range []string{"namespace.yaml", "controller.yaml"} {
		r.kubectl("", "apply", "-f", filepath.Join(manifests, file))
	}
	r.kubectl("", "create", "namespace", team)
	r.kubectl("", "apply", "-n", team, "-f", filepath.Join(manifests, "controller-namespace-rbac.yaml"))
	return r
}

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, resourcev1.AddToScheme, apiregistrationv1.AddToScheme, v1alpha1.AddToScheme} {
		must(t, add(s))
	}
	return s
}

func (r *rig) kubectl(stdin string, args ...string) {
	r.t.Helper()
	kubectl := r.Kubectl(r.AdminKubeconfig)
	kubectl.Stdin = strings.NewReader(stdin)
	_, _, err := kubectl.Run(r.ctx, args...)
	must(r.t, err)
}

// manager has the rights of the controller's ServiceAccount, and a cache.
func (r *rig) manager(cached ...map[client.Object]cache.ByObject) (manager.Manager, cache.Cache) {
	r.t.Helper()
	kubeconfig, err := r.AddServiceAccount(system, "hsm-controller")
	must(r.t, err)
	config, err := controlplane.Config(kubeconfig)
	must(r.t, err)
	mgr, err := manager.New(config, manager.Options{
		Scheme:     scheme(r.t),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: controllerconfig.Controller{SkipNameValidation: new(true)},
		NewClient: func(c *rest.Config, o client.Options) (client.Client, error) {
			o.Cache = nil
			return client.New(c, o)
		},
	})
	must(r.t, err)
	byObject := map[client.Object]cache.ByObject{}
	for _, objects := range cached {
		maps.Copy(byObject, objects)
	}
	c, err := cache.New(config, cache.Options{
		Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), ByObject: byObject,
		DefaultNamespaces: map[string]cache.Config{system: {}},
	})
	must(r.t, err)
	must(r.t, mgr.Add(c))
	return mgr, c
}

// run runs a manager until it is told to stop.
func (r *rig) run(mgr manager.Manager) (stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the controllers ended: %v", err)
		}
	}
}

// start runs the controllers until they are told to stop, or the test ends.
func (r *rig) start(access agents.DeviceAccess, issuerOf func(client.Client) certs.Issuer) (stop func()) {
	r.t.Helper()
	mgr, caches := r.manager(certs.Cached(issuerOf(nil)), agents.Cached(access))
	recorder := record.NewFakeRecorder(1000)
	recorder.IncludeObject = true
	r.events = recorder.Events
	issuer := issuerOf(mgr.GetClient())
	must(r.t, certs.Add(mgr, caches, issuer))
	must(r.t, agents.Add(mgr, caches, agents.Options{
		SystemNamespace: system, Image: "hsm-agent:1", Access: access,
		Issuer: issuer, Recorder: recorder, Clock: r.clock,
	}))
	stop = sync.OnceFunc(r.run(mgr))
	r.t.Cleanup(stop)
	return stop
}

// authorities is the Issuer of its own.
func (r *rig) authorities(c client.Client) certs.Issuer {
	return certs.NewAuthorities(c, system, r.clock)
}

// until waits for a condition.
func (r *rig) until(what string, condition func() error) {
	r.t.Helper()
	if err := await.Poll(r.ctx, patience, func(context.Context) error { return condition() }); err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
}

// event waits for an Event.
func (r *rig) event(substrings ...string) string {
	r.t.Helper()
	timeout := time.After(await.Limit(patience))
	for {
		select {
		case e := <-r.events:
			if containsAll(e, substrings) {
				return e
			}
		case <-timeout:
			r.t.Fatalf("no Event with %q", substrings)
		}
	}
}

func containsAll(s string, substrings []string) bool {
	for _, sub := range substrings {
		if !strings.Contains(s, sub) {
			return false
		}
	}
	return true
}

// device is an HSMDevice with agents.
func device(namespace, name string, pin v1alpha1.PINSecretReference) *v1alpha1.HSMDevice {
	return &v1alpha1.HSMDevice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.HSMDeviceSpec{
			DeviceType: v1alpha1.DeviceTypePicoHSM,
			Discovery:  &v1alpha1.Discovery{AutoDiscovery: true},
			PKCS11:     &v1alpha1.PKCS11{LibraryPath: "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so", PINSecret: &pin},
		},
	}
}

// report has a pool say what it sees, as the pools' controller does.
func (r *rig) report(namespace, name string, seen ...v1alpha1.AggregatedDevice) {
	r.t.Helper()
	pool := &v1alpha1.HSMPool{}
	err := r.client.Get(r.ctx, client.ObjectKey{Namespace: namespace, Name: name}, pool)
	fresh := client.IgnoreNotFound(err) == nil && err != nil
	if !fresh {
		must(r.t, err)
	}
	pool.Namespace, pool.Name = namespace, name
	pool.Spec = v1alpha1.HSMPoolSpec{HSMDeviceRefs: []string{name}, GracePeriod: &metav1.Duration{Duration: time.Minute}}
	for i := range seen {
		seen[i].HSMDeviceName = name
	}
	pool.Status.AggregatedDevices = seen
	if fresh {
		must(r.t, r.client.Create(r.ctx, pool))
		return
	}
	must(r.t, r.client.Update(r.ctx, pool))
}

// hear has a pool say what the agent of a token tells.
func (r *rig) hear(namespace, name string, member v1alpha1.PoolMember) {
	r.t.Helper()
	pool := &v1alpha1.HSMPool{}
	must(r.t, r.client.Get(r.ctx, client.ObjectKey{Namespace: namespace, Name: name}, pool))
	pool.Status.Members = []v1alpha1.PoolMember{member}
	must(r.t, r.client.Update(r.ctx, pool))
}

// touch has the controller look again.
func (r *rig) touch(namespace, name string) {
	r.t.Helper()
	object := &v1alpha1.HSMDevice{}
	must(r.t, r.client.Get(r.ctx, client.ObjectKey{Namespace: namespace, Name: name}, object))
	if object.Annotations == nil {
		object.Annotations = map[string]string{}
	}
	object.Annotations["touched"] = fmt.Sprint(len(object.Annotations["touched"])) + object.Annotations["touched"]
	must(r.t, r.client.Update(r.ctx, object))
}

// of lists what an agent is made of: resourceVersions by kind and name.
func (r *rig) of(serial string) map[string]string {
	r.t.Helper()
	found := map[string]string{}
	for _, list := range []client.ObjectList{
		&appsv1.DeploymentList{}, &corev1.ServiceList{}, &corev1.ServiceAccountList{}, &corev1.SecretList{}, &resourcev1.ResourceClaimList{},
	} {
		must(r.t, r.client.List(r.ctx, list, client.InNamespace(system), client.MatchingLabels{agentname.ObjectLabel: agentname.For(serial)}))
		must(r.t, eachOf(list, func(o client.Object) { found[fmt.Sprintf("%T %s", o, o.GetName())] = o.GetResourceVersion() }))
	}
	return found
}

func (r *rig) deployment(serial string) (*appsv1.Deployment, error) {
	d := &appsv1.Deployment{}
	return d, r.client.Get(r.ctx, client.ObjectKey{Namespace: system, Name: agentname.For(serial)}, d)
}
