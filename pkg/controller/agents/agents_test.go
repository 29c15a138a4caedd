// SPDX-License-Identifier: Apache-2.0

package agents_test

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/agents"
	"j5t.io/hsm/pkg/controller/certs"
)

func eachOf(list client.ObjectList, visit func(client.Object)) error {
	return meta.EachListItem(list, func(o runtime.Object) error {
		visit(o.(client.Object))
		return nil
	})
}

func seen(serial, node, path string) v1alpha1.AggregatedDevice {
	return v1alpha1.AggregatedDevice{SerialNumber: serial, NodeName: node, DevicePath: path, Available: true}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.testServingCertificate()
	r.kubectl(definitions, "apply", "-f", "-")
	r.kubectl("", "wait", "--for=condition=Established", "--timeout=5m", "crd/hsmdevices.hsm.j5t.io", "crd/hsmpools.hsm.j5t.io")
	stop := r.start(agents.AccessDRA, r.authorities)
	for name, test := range map[string]func(*rig){
		"life":               (*rig).testLife,
		"PINs of others":     (*rig).testForeignPIN,
		"provisioning":       (*rig).testProvisioning,
		"one that fails":     (*rig).testFailure,
		"HSMDevice deleted":  (*rig).testDeviceDeleted,
		"someone interferes": (*rig).testInterference,
	} {
		if !r.sub(name, test) {
			return
		}
	}
	stop()
	stop = r.start(agents.AccessPlugin, r.authorities)
	if !r.sub("device plugin", (*rig).testPlugin) {
		return
	}
	stop()
	r.sub("cert-manager", (*rig).testCertManager)
}

func (r *rig) sub(name string, test func(*rig)) bool {
	return r.t.Run(name, func(t *testing.T) {
		sub := *r
		sub.t = t
		test(&sub)
	})
}

// The APIService would take the place of the definitions that stand in for it, so
// it goes again.
func (r *rig) testServingCertificate() {
	r.kubectl("", "apply", "-f", filepath.Join(manifests, "apiservice.yaml"))
	mgr, caches := r.manager(certs.Cached(r.authorities(nil)))
	must(r.t, certs.Add(mgr, caches, r.authorities(mgr.GetClient())))
	defer r.run(mgr)()
	service, secret := &apiregistrationv1.APIService{}, &corev1.Secret{}
	trusted := func() error {
		must(r.t, r.client.Get(r.ctx, client.ObjectKey{Name: certs.APIService}, service))
		err := r.client.Get(r.ctx, client.ObjectKey{Namespace: system, Name: certs.ServingSecret}, secret)
		if err == nil && (len(service.Spec.CABundle) == 0 || string(service.Spec.CABundle) != string(secret.Data["ca.crt"])) {
			err = errors.New("the APIService does not trust the serving certificate")
		}
		return err
	}
	r.until("the authority to be trusted", trusted)
	r.kubectl("", "patch", "apiservice", certs.APIService, "--type=json", `--patch=[{"op":"remove","path":"/spec/caBundle"}]`)
	r.until("the authority to be trusted again", trusted)
	must(r.t, r.client.Delete(r.ctx, secret))
	r.until("another certificate", trusted)
	must(r.t, r.client.Delete(r.ctx, service))
}

// From the first sight of a token to its agent's end.
func (r *rig) testLife() {
	const serial = "E6614C311B4FC726"
	name := agentname.For(serial)
	owner := device(system, "pico", v1alpha1.PINSecretReference{Name: "pico-pin", Key: "pin"})
	must(r.t, r.client.Create(r.ctx, owner))
	r.report(system, "pico", seen(serial, "node-1", "/dev/bus/usb/001/007"))
	r.until("the agent's pod", func() error { return r.podOn(name, "node-1", "/dev/bus/usb/001/007") })
	if got := r.given(name); got != "agent claims the token, pcscd claims the token" {
		r.t.Errorf("%s", got)
	}
	d, err := r.deployment(serial)
	must(r.t, err)
	claimOf := func(d *appsv1.Deployment) string { return *d.Spec.Template.Spec.ResourceClaims[0].ResourceClaimName }
	want := []string{
		"*v1.Deployment " + name, "*v1.ResourceClaim " + claimOf(d), "*v1.Secret " + name + "-tls",
		"*v1.Service " + name, "*v1.ServiceAccount " + name,
	}
	if got := slices.Sorted(maps.Keys(r.of(serial))); !slices.Equal(got, want) {
		r.t.Errorf("an agent is made of %v, want %v", got, want)
	}
	if len(d.OwnerReferences) != 1 || d.OwnerReferences[0].UID != owner.UID {
		r.t.Errorf("owners: %v", d.OwnerReferences)
	}

	// Nothing has changed: nothing is written.
	r.until("the Deployment to rest", func() error {
		d, err := r.deployment(serial)
		if err == nil && d.Status.ObservedGeneration != d.Generation {
			err = errors.New("not seen yet")
		}
		return err
	})
	before := r.of(serial)
	r.touch(system, "pico")
	r.report(system, "pico", seen(serial, "node-1", "/dev/bus/usb/001/007"), seen("SECOND", "node-1", "/dev/bus/usb/001/008"))
	r.until("another agent", func() error { _, err := r.deployment("SECOND"); return err })
	if after := r.of(serial); !maps.Equal(before, after) {
		r.t.Errorf("written though nothing has changed:\n%v\n%v", before, after)
	}

	// Enumerated anew, and moved.
	r.report(system, "pico", seen(serial, "node-1", "/dev/bus/usb/001/009"))
	r.until("a new pod for the new path", func() error { return r.podOn(name, "node-1", "/dev/bus/usb/001/009") })
	first, err := r.deployment(serial)
	must(r.t, err)
	r.hear(system, "pico", v1alpha1.PoolMember{SerialNumber: serial, State: "Serving", StoreID: "b2"})
	r.report(system, "pico", seen(serial, "node-2", "/dev/bus/usb/001/002"))
	r.until("a pod on the other node", func() error { return r.podOn(name, "node-2", "/dev/bus/usb/001/002") })
	moved, err := r.deployment(serial)
	must(r.t, err)
	if moved.UID == first.UID {
		r.t.Error("a Deployment that waits for a pod on a node that may be down")
	}
	if claimOf(moved) == claimOf(first) {
		r.t.Error("a claim that is allocated to a node that may be down")
	}
	r.until("the claim of the old node to go", func() error {
		err := r.client.Get(r.ctx, client.ObjectKey{Namespace: system, Name: claimOf(first)}, &resourcev1.ResourceClaim{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	if args := moved.Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--store-id-hint=b2") {
		r.t.Errorf("the agent does not know the store of its token on the other node: %s", args)
	}
	if args := first.Spec.Template.Spec.Containers[0].Args; strings.Contains(strings.Join(args, " "), "store-id") {
		r.t.Errorf("a store is known before the first was made: %s", args)
	}
	r.hear(system, "pico", v1alpha1.PoolMember{SerialNumber: serial, State: "TokenAbsent"})

	// Gone.
	must(r.t, r.client.Create(r.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: agents.SOPINSecret(name)},
	}))
	r.report(system, "pico")
	r.until("the token to be missed", func() error {
		d, err := r.deployment(serial)
		if err == nil && d.Annotations[agents.AbsentSinceAnnotation] == "" {
			err = errors.New("no annotation")
		}
		return err
	})
	r.clock.SetTime(r.clock.Now().Add(59 * time.Second))
	r.report(system, "pico", seen("THIRD", "node-1", "/dev/bus/usb/001/011"))
	r.until("another agent", func() error { _, err := r.deployment("THIRD"); return err })
	if len(r.of(serial)) != len(want) {
		r.t.Error("removed within gracePeriod")
	}
	r.clock.SetTime(r.clock.Now().Add(2 * time.Second))
	r.touch(system, "pico")
	r.until("the agent to be removed", func() error {
		if left := r.of(serial); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
	r.event("AgentRemoved", serial)
	must(r.t, r.client.Get(r.ctx, client.ObjectKey{Namespace: system, Name: agents.SOPINSecret(name)}, &corev1.Secret{}))
}

// podOn is nil if there is one pod of an agent, for this node and path, without
// rights and hardened, as a real kube-apiserver has taken it.
func (r *rig) podOn(name, node, path string) error {
	pods := &corev1.PodList{}
	must(r.t, r.client.List(r.ctx, pods, client.InNamespace(system), client.MatchingLabels{agentname.ObjectLabel: name}))
	for _, pod := range pods.Items {
		terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		if pod.Annotations[agents.DevicePathAnnotation] != path || terms[0].MatchFields[0].Values[0] != node {
			continue
		}
		main := pod.Spec.Containers[0]
		hardened := *main.SecurityContext.ReadOnlyRootFilesystem && !*main.SecurityContext.AllowPrivilegeEscalation &&
			main.SecurityContext.Capabilities.Drop[0] == "ALL" && len(main.SecurityContext.Capabilities.Add) == 0 &&
			pod.Spec.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault
		if !hardened || *pod.Spec.AutomountServiceAccountToken || pod.Spec.ServiceAccountName != name {
			return fmt.Errorf("pod %s has more than it needs", pod.Name)
		}
		for _, volume := range pod.Spec.Volumes {
			if volume.Projected != nil {
				return fmt.Errorf("pod %s has volume %s", pod.Name, volume.Name)
			}
		}
		return nil
	}
	return fmt.Errorf("no such pod among %d", len(pods.Items))
}

func (r *rig) testForeignPIN() {
	const serial, value, next = "FOREIGN", "648219", "731946"
	name := agentname.For(serial)
	source := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "pin"}, Data: map[string][]byte{"code": []byte(value)}}
	must(r.t, r.client.Create(r.ctx, source))
	must(r.t, r.client.Create(r.ctx, device(team, "theirs", v1alpha1.PINSecretReference{Name: "pin", Key: "code"})))
	r.report(team, "theirs", seen(serial, "node-1", "/dev/bus/usb/001/003"))
	said := r.event("PINSecretNotAllowed", "team/pin", agents.AllowList)
	if left := r.of(serial); len(left) > 0 {
		r.t.Errorf("an agent though its PIN is not allowed: %v", left)
	}

	list := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: agents.AllowList},
		Data:       map[string]string{"others": "a/b\n", "team": "team/pin\n"},
	}
	must(r.t, r.client.Create(r.ctx, list))
	r.touch(team, "theirs")
	copied := func(want string) func() error {
		return func() error {
			secret := &corev1.Secret{}
			err := r.client.Get(r.ctx, client.ObjectKey{Namespace: system, Name: name + "-pin"}, secret)
			if err == nil && string(secret.Data["pin"]) != want {
				err = errors.New("another value")
			}
			for _, note := range secret.Annotations {
				if strings.Contains(note, want) {
					err = errors.New("the PIN is in an annotation")
				}
			}
			return err
		}
	}
	r.until("a copy of the PIN", copied(value))
	r.until("the agent's pod", func() error { return r.podOn(name, "node-1", "/dev/bus/usb/001/003") })
	source.Data["code"] = []byte(next)
	must(r.t, r.client.Update(r.ctx, source))
	r.touch(team, "theirs")
	r.until("the copy to follow", copied(next))

	must(r.t, r.client.Delete(r.ctx, source))
	r.touch(team, "theirs")
	said += r.event("PINSecretMissing", "team/pin")
	must(r.t, copied(next)())

	list.Data = nil
	must(r.t, r.client.Update(r.ctx, list))
	r.touch(team, "theirs")
	r.until("the agent to be removed", func() error {
		if left := r.of(serial); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
	if strings.Contains(said, value) || strings.Contains(said, next) {
		r.t.Errorf("an Event tells the PIN: %s", said)
	}
	must(r.t, r.client.Delete(r.ctx, list))
}

// An SO PIN is made when it was asked for and the token has no user PIN, is in its
// Secret only, and is not made again for a token that has held a store.
func (r *rig) testProvisioning() {
	const serial, state = "BLANK", "TokenUninitialized"
	name := client.ObjectKey{Namespace: system, Name: agents.SOPINSecret(agentname.For(serial))}
	blank := device(system, "blank", v1alpha1.PINSecretReference{Name: "pico-pin", Key: "pin"})
	must(r.t, r.client.Create(r.ctx, blank))
	r.report(system, "blank", seen(serial, "node-1", "/dev/bus/usb/001/006"))
	r.until("an agent", func() error { _, err := r.deployment(serial); return err })
	arguments := func() string {
		d, err := r.deployment(serial)
		must(r.t, err)
		return strings.Join(d.Spec.Template.Spec.Containers[0].Args, " ")
	}

	r.hear(system, "blank", v1alpha1.PoolMember{SerialNumber: serial, State: state})
	said := r.event("NotProvisioned", serial, "kind=HSMPool")
	secret := &corev1.Secret{}
	if err := r.client.Get(r.ctx, name, secret); !apierrors.IsNotFound(err) || strings.Contains(arguments(), "provision") {
		r.t.Errorf("provisioned though it was not asked for: %v, %s", err, arguments())
	}

	must(r.t, r.client.Get(r.ctx, client.ObjectKeyFromObject(blank), blank))
	blank.Spec.PKCS11.AutoProvision = true
	must(r.t, r.client.Update(r.ctx, blank))
	said += r.event("ProvisioningStarted", serial, name.Name, "kind=HSMPool")
	must(r.t, r.client.Get(r.ctx, name, secret))
	pin := string(secret.Data["so-pin"])
	if !regexp.MustCompile("^[0-9a-f]{16}$").MatchString(pin) {
		r.t.Error("the SO PIN is not one of 16 hexadecimal digits")
	}
	if secret.Annotations[agents.WarningAnnotation] == "" || len(secret.OwnerReferences) > 0 {
		r.t.Errorf("the Secret: %v", secret.ObjectMeta)
	}
	r.until("the agent to be told", func() error {
		if !strings.Contains(arguments(), "--provision --so-pin-file=/run/hsm/so-pin/so-pin") {
			return errors.New(arguments())
		}
		return nil
	})

	r.hear(system, "blank", v1alpha1.PoolMember{SerialNumber: serial, State: state, Message: "not yet"})
	said += r.event("Provisioning ", serial, "not yet")
	r.hear(system, "blank", v1alpha1.PoolMember{SerialNumber: serial, State: v1alpha1.MemberStateServing, StoreID: "a1"})
	said += r.event("Provisioned", serial, name.Name, "safe")
	same := &corev1.Secret{}
	must(r.t, r.client.Get(r.ctx, name, same))
	if same.UID != secret.UID || string(same.Data["so-pin"]) != pin {
		r.t.Error("the SO PIN was made twice")
	}

	must(r.t, r.client.Delete(r.ctx, secret))
	r.hear(system, "blank", v1alpha1.PoolMember{SerialNumber: serial, State: state, StoreID: "a1"})
	said += r.event("NotProvisioned", serial, "a1")
	if err := r.client.Get(r.ctx, name, secret); !apierrors.IsNotFound(err) {
		r.t.Errorf("an SO PIN for a token that has held a store: %v", err)
	}
	if strings.Contains(said, pin) {
		r.t.Errorf("an Event tells the SO PIN: %s", said)
	}
}

// An agent that cannot be made is in nobody's way.
func (r *rig) testFailure() {
	r.kubectl("", "create", "namespace", "forbidden")
	must(r.t, r.client.Create(r.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: agents.AllowList},
		Data:       map[string]string{"all": "forbidden/pin"},
	}))
	defer r.kubectl("", "delete", "configmap", "-n", system, agents.AllowList)
	must(r.t, r.client.Create(r.ctx, device(system, "fails", v1alpha1.PINSecretReference{Name: "pin", Namespace: "forbidden"})))
	must(r.t, r.client.Create(r.ctx, device(system, "works", v1alpha1.PINSecretReference{Name: "pico-pin"})))
	r.report(system, "fails", seen("A-FAILS", "node-1", "/dev/bus/usb/001/020"))
	r.report(system, "works", seen("B-WORKS", "node-1", "/dev/bus/usb/001/021"))
	r.until("the agent that can be made", func() error { _, err := r.deployment("B-WORKS"); return err })
	if left := r.of("A-FAILS"); len(left) > 0 {
		r.t.Errorf("an agent whose PIN cannot be read: %v", left)
	}
	must(r.t, r.client.Delete(r.ctx, device(system, "fails", v1alpha1.PINSecretReference{})))
}

func (r *rig) testDeviceDeleted() {
	const serial = "DELETED"
	must(r.t, r.client.Create(r.ctx, device(system, "short", v1alpha1.PINSecretReference{Name: "pico-pin"})))
	r.report(system, "short", seen(serial, "node-1", "/dev/bus/usb/001/004"))
	r.until("an agent", func() error { _, err := r.deployment(serial); return err })
	must(r.t, r.client.Delete(r.ctx, device(system, "short", v1alpha1.PINSecretReference{})))
	r.until("the agent to be removed", func() error {
		if left := r.of(serial); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

// What is changed or deleted by others is brought back.
func (r *rig) testInterference() {
	const serial = "INTERFERED"
	name := agentname.For(serial)
	must(r.t, r.client.Create(r.ctx, device(system, "steady", v1alpha1.PINSecretReference{Name: "pico-pin"})))
	r.report(system, "steady", seen(serial, "node-1", "/dev/bus/usb/001/005"))
	r.until("an agent", func() error { _, err := r.deployment(serial); return err })

	r.kubectl("", "patch", "-n", system, "deployment", name, "--type=json",
		`--patch=[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"evil"}]`)
	r.until("the image to be brought back", func() error {
		d, err := r.deployment(serial)
		if err == nil && d.Spec.Template.Spec.Containers[0].Image != "hsm-agent:1" {
			err = errors.New("another image")
		}
		return err
	})
	for _, object := range []client.Object{&corev1.Secret{}, &corev1.Service{}} {
		object.SetNamespace(system)
		object.SetName(name)
		if _, is := object.(*corev1.Secret); is {
			object.SetName(certs.AgentSecret(name))
		}
		must(r.t, r.client.Get(r.ctx, client.ObjectKeyFromObject(object), object))
		uid := object.GetUID()
		must(r.t, r.client.Delete(r.ctx, object))
		r.until(fmt.Sprintf("%T to be made anew", object), func() error {
			err := r.client.Get(r.ctx, client.ObjectKeyFromObject(object), object)
			if err == nil && object.GetUID() == uid {
				err = apierrors.NewNotFound(corev1.Resource("any"), object.GetName())
			}
			return err
		})
	}
}
