// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"j5t.io/hsm/pkg/agentname"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery"
	"j5t.io/hsm/pkg/discovery/known"
	"j5t.io/hsm/pkg/discovery/sysfs"
	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
)

// TestTwins: two sticks of one model in one node, whose tokens both call themselves
// ESPICOHSMTR, are two tokens all the way from the USB port to the agents: by the serial
// numbers of their USB devices.
func TestTwins(t *testing.T) {
	t.Parallel()
	serials := []string{"E6614C311B4FC726", "E6614C311B4FC727"}
	spec := v1alpha1.HSMDeviceSpec{
		DeviceType: v1alpha1.DeviceTypePicoHSM, MaxDevices: 2, Discovery: &v1alpha1.Discovery{AutoDiscovery: true},
		PKCS11: &v1alpha1.PKCS11{LibraryPath: "/usr/lib/opensc-pkcs11.so"},
	}
	device := &v1alpha1.HSMDevice{ObjectMeta: metav1.ObjectMeta{Namespace: pico.Namespace, Name: pico.Name}, Spec: spec}

	tree, err := sysfstest.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, serial := range serials {
		number := string(rune('4' + i))
		if err := tree.Plug(sysfstest.USB{
			Name: "1-" + number, VendorID: "2e8a", ProductID: "10fd", Product: "Pico Key", Serial: serial, BusNumber: "1", DeviceNumber: number,
		}); err != nil {
			t.Fatal(err)
		}
	}
	table, err := known.New()
	if err != nil {
		t.Fatal(err)
	}
	matcher := discovery.Matcher{Host: sysfs.Host{Sys: tree.Sys, Dev: t.TempDir()}, Known: table, Node: "node-1"}
	entries, tokens := matcher.Match(t.Context(), []*v1alpha1.HSMDevice{device}, nil, nil, metav1.Now())
	if len(tokens) != 2 || tokens[0].Path == tokens[1].Path {
		t.Fatalf("pods can get %+v, want the two sticks", tokens)
	}

	w := newWorld()
	w.facts.devices[pico] = device
	for _, found := range entries[0].DiscoveredDevices {
		w.sees(found.SerialNumber, at(pico, "node-1", found.DevicePath), found.Reason == "")
	}
	decided := w.facts.makePlan()
	if len(decided.desired) != 2 {
		t.Fatalf("decided on %+v, want two agents", decided)
	}
	for _, access := range []DeviceAccess{AccessDRA, AccessPlugin} {
		r := &reconciler{Options: Options{SystemNamespace: system, Image: "hsm-agent", Access: access}}
		var identities [2][]string
		for i, a := range decided.desired {
			d := r.deployment(a, device, pin{secret: "pin", key: "pin"})
			identities[i] = identityOf(d)
			if args := d.Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--token-serial="+serials[i]) {
				t.Errorf("%s: the agent of %s has %q", access, serials[i], args)
			}
		}
		for j, one := range identities[0] {
			if other := identities[1][j]; one == other || one == "" {
				t.Errorf("%s: both agents have %q", access, one)
			}
		}
	}
}

// identityOf is what two agents must not have in common.
func identityOf(d *appsv1ac.DeploymentApplyConfiguration) []string {
	pod := d.Spec.Template.Spec
	identity := []string{*d.Name, d.Spec.Selector.MatchLabels[agentname.ObjectLabel], *pod.ServiceAccountName, d.Spec.Template.Annotations[DevicePathAnnotation]}
	for _, volume := range pod.Volumes {
		switch *volume.Name {
		case "state":
			identity = append(identity, *volume.HostPath.Path)
		case "tls":
			identity = append(identity, *volume.Secret.SecretName)
		}
	}
	for _, claim := range pod.ResourceClaims {
		identity = append(identity, *claim.ResourceClaimName)
	}
	containers := append(slices.Clone(pod.InitContainers), pod.Containers...)
	i := slices.IndexFunc(containers, func(c corev1ac.ContainerApplyConfiguration) bool { return *c.Name == "pcscd" })
	for resource := range *containers[i].Resources.Limits {
		if strings.HasPrefix(string(resource), "hsm.j5t.io/") {
			identity = append(identity, string(resource))
		}
	}
	return identity
}
