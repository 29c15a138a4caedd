// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	cdi "tags.cncf.io/container-device-interface/specs-go"

	"j5t.io/hsm/pkg/discovery/dra"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/discovery/dra/dratest"
	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
)

const (
	// tokens is how many the node has, each with an HSMDevice of its own.
	tokens = 50
	// card is the one that is not a Pico HSM.
	card = "DENK0100001"
)

// odd is the worst serial number that a token may tell.
var odd = strings.Repeat(`"\\' || true || "`, 7)

// testSlicesPolicy: discovery cannot speak for another node or another driver.
func testSlicesPolicy(ctx context.Context, t *testing.T, c *cluster) {
	bound, err := kubernetes.NewForConfig(c.token)
	must(t, err)
	slice := func(driver, node string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: driver + "-" + node}, Spec: resourcev1.ResourceSliceSpec{
			Driver: driver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1},
		}}
	}
	mine, elsewhere, foreign := slice(attribute.Driver, node), slice(attribute.Driver, "node-2"), slice("gpu.example.com", node)
	everywhere := slice(attribute.Driver, node)
	everywhere.Spec.NodeName, everywhere.Spec.AllNodes = nil, new(true)
	resourceSlices, admin := bound.ResourceV1().ResourceSlices(), c.client.ResourceV1().ResourceSlices()
	denied := func(what string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			t.Errorf("%s: %v", what, err)
		}
	}
	dryRun := []string{metav1.DryRunAll}
	_, err = resourceSlices.Create(ctx, mine, metav1.CreateOptions{DryRun: dryRun})
	must(t, err)
	for _, slice := range []*resourcev1.ResourceSlice{elsewhere, foreign, everywhere} {
		_, err := resourceSlices.Create(ctx, slice, metav1.CreateOptions{DryRun: dryRun})
		denied("create "+slice.Name, err)
		created, err := admin.Create(ctx, slice, metav1.CreateOptions{})
		must(t, err)
		created.Spec.Pool.Generation++
		_, err = resourceSlices.Update(ctx, created, metav1.UpdateOptions{DryRun: dryRun})
		denied("update "+slice.Name, err)
		denied("delete "+slice.Name, resourceSlices.Delete(ctx, slice.Name, metav1.DeleteOptions{DryRun: dryRun}))
		must(t, admin.Delete(ctx, slice.Name, metav1.DeleteOptions{}))
	}
	if _, err := bound.ResourceV1().ResourceClaims("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list claims: %v", err)
	}
}

// testAccess takes tokens from the kernel's trees to what a container is given, through
// a real kube-scheduler.
func testAccess(ctx context.Context, t *testing.T, c *cluster) {
	c.kubectl(ctx, t, "", "apply", "-f", filepath.Join(manifests, "deviceclass.yaml"))
	tree, err := sysfstest.New(t.TempDir())
	must(t, err)
	serials := []string{odd, card}
	for i := len(serials); i < tokens; i++ {
		serials = append(serials, fmt.Sprintf("E6614C311B4F%04d", i))
	}
	for i, serial := range serials {
		must(t, tree.Plug(stick(serial, i+1)))
	}
	c.kubectl(ctx, t, hsmDevices(t, serials), "apply", "-f", "-")
	c.enlarge(ctx, t)
	kubelet := kubeletDir(t, "plugins_registry")
	folders := []string{"--kubelet-dir=" + kubelet, "--cdi-dir=" + filepath.Join(kubelet, "cdi")}

	discovery := startDiscovery(ctx, t, c, tree, folders...)
	plugin, err := dratest.Register(ctx, kubelet, attribute.Driver)
	must(t, err)
	defer plugin.Close()
	published := func(what string, condition func([]resourcev1.Device) error) {
		t.Helper()
		poll(ctx, t, what, func() error {
			list, err := c.client.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			if len(list.Items) != 1 {
				return fmt.Errorf("%d slices", len(list.Items))
			}
			return condition(list.Items[0].Spec.Devices)
		})
	}
	published("all tokens are published", func(devices []resourcev1.Device) error {
		if len(devices) != tokens {
			return fmt.Errorf("%d devices", len(devices))
		}
		return nil
	})

	// An agent claims its token by the serial number.
	c.claim(ctx, t, "agent", odd)
	c.pod(ctx, t, "agent", corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "agent"}}})
	claim := c.allocated(ctx, t, "agent")
	if got, want := devicesOf(claim), []string{attribute.DeviceName(odd)}; !slices.Equal(got, want) {
		t.Errorf("the agent is allocated %q, want %q", got, want)
	}
	// Others ask for any token of a type.
	for resourceName, isOfType := range map[string]func(device string) bool{
		"hsm.j5t.io/smartcard-hsm": func(device string) bool { return device == attribute.DeviceName(card) },
		"hsm.j5t.io/pico": func(device string) bool {
			return strings.HasPrefix(device, "e6614c311b4f")
		},
	} {
		name := strings.TrimPrefix(resourceName, "hsm.j5t.io/")
		c.pod(ctx, t, name, corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceName(resourceName): resource.MustParse("1")}})
		claim := c.allocated(ctx, t, name)
		if got := devicesOf(claim); len(got) != 1 || !isOfType(got[0]) {
			t.Errorf("%s: allocated %q", resourceName, got)
		}
		if _, err := plugin.Prepare(ctx, claim); err != nil {
			t.Errorf("%s: %v", resourceName, err)
		}
	}

	given := func(claim *resourcev1.ResourceClaim, want string) {
		t.Helper()
		devices, err := plugin.Prepare(ctx, claim)
		must(t, err)
		content, err := os.ReadFile(filepath.Join(kubelet, "cdi", "hsm.j5t.io-token_"+string(claim.UID)+".json"))
		must(t, err)
		var spec cdi.Spec
		must(t, json.Unmarshal(content, &spec))
		if len(devices) != 1 || len(spec.Devices) != 1 || devices[0] != spec.Kind+"="+spec.Devices[0].Name || spec.Devices[0].ContainerEdits.DeviceNodes[0].HostPath != want {
			t.Errorf("got %q, %s, want %s", devices, content, want)
		}
	}
	given(claim, "/dev/bus/usb/001/001")

	fmt.Printf("figure: discovery-rss-mib %.1f\n", discovery.residentMiB(t))
	discovery.stop(ctx, t)

	// The token is pulled while discovery is updated, and plugged in elsewhere later.
	must(t, tree.Unplug(stick(odd, 1).Name))
	discovery = startDiscovery(ctx, t, c, tree, folders...)
	again, err := dratest.Register(ctx, kubelet, attribute.Driver)
	must(t, err)
	defer again.Close()
	plugin = again
	published("the token is tainted", func(devices []resourcev1.Device) error {
		for _, device := range devices {
			tainted := len(device.Taints) == 1 && device.Taints[0].Key == dra.TaintUnusable && device.Taints[0].Effect == resourcev1.DeviceTaintEffectNoExecute
			if tainted != (device.Name == attribute.DeviceName(odd)) {
				return fmt.Errorf("got %+v", device)
			}
		}
		if len(devices) != tokens {
			return fmt.Errorf("%d devices", len(devices))
		}
		return nil
	})
	if _, err := plugin.Prepare(ctx, claim); err == nil {
		t.Error("prepared a token that was unplugged")
	}
	poll(ctx, t, "the agent is evicted", func() error {
		pod, err := c.client.CoreV1().Pods("default").Get(ctx, "agent", metav1.GetOptions{})
		if err == nil && pod.DeletionTimestamp == nil {
			err = errors.New("it is not")
		}
		return err
	})
	must(t, plugin.Unprepare(ctx, claim))
	must(t, c.client.CoreV1().Pods("default").Delete(ctx, "agent", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	poll(ctx, t, "the claim is free", func() error {
		claim, err := c.client.ResourceV1().ResourceClaims("default").Get(ctx, "agent", metav1.GetOptions{})
		if err == nil && claim.Status.Allocation != nil {
			err = errors.New("it is allocated")
		}
		return err
	})
	// A pod that is made before is bound to the token that is gone, and evicted as well.
	c.pod(ctx, t, "agent", corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "agent"}}})
	poll(ctx, t, "a token that was unplugged is not allocated", func() error {
		pod, err := c.client.CoreV1().Pods("default").Get(ctx, "agent", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse && condition.Reason == corev1.PodReasonUnschedulable {
				return nil
			}
		}
		return fmt.Errorf("got %+v", pod.Status.Conditions)
	})
	must(t, tree.Plug(stick(odd, 99)))
	given(c.allocated(ctx, t, "agent"), "/dev/bus/usb/001/099")
	discovery.stop(ctx, t)
}

// stick is a token in this place of the bus.
func stick(serial string, number int) sysfstest.USB {
	device := pico("1-"+strconv.Itoa(number), serial, number)
	if serial == card {
		device.VendorID, device.ProductID, device.Product = "20a0", "4230", "Nitrokey HSM"
	}
	return device
}

// hsmDevices has an HSMDevice for each token.
func hsmDevices(t *testing.T, serials []string) string {
	t.Helper()
	items := []any{}
	for i, serial := range serials {
		device := stick(serial, i+1)
		deviceType := "PicoHSM"
		if serial == card {
			deviceType = "SmartCard-HSM"
		}
		items = append(items, map[string]any{
			"apiVersion": "hsm.j5t.io/v1alpha1", "kind": "HSMDevice",
			"metadata": map[string]any{"name": fmt.Sprint("token-", i), "namespace": namespace},
			"spec": map[string]any{"deviceType": deviceType, "maxDevices": 1, "discovery": map[string]any{
				"usb": map[string]any{"vendorId": device.VendorID, "productId": device.ProductID, "serialNumber": serial},
			}},
		})
	}
	return encode(t, map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
}

// enlarge gives the node room for pods, as kubelet does.
func (c *cluster) enlarge(ctx context.Context, t *testing.T) {
	t.Helper()
	status := encode(t, map[string]any{"status": map[string]any{
		"allocatable": map[string]string{"cpu": "4", "memory": "8Gi", "pods": "110"},
	}})
	_, err := c.client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status")
	must(t, err)
}

// claim makes a claim of the token with a serial number, as an agent's is.
func (c *cluster) claim(ctx context.Context, t *testing.T, name, serial string) {
	t.Helper()
	_, err := c.client.ResourceV1().ResourceClaims("default").Create(ctx, &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
			Name: "token",
			Exactly: &resourcev1.ExactDeviceRequest{
				DeviceClassName: "hsm.j5t.io",
				Selectors:       []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: attribute.SerialSelector(serial)}}},
			},
		}}}},
	}, metav1.CreateOptions{})
	must(t, err)
}

// pod makes a pod with these resources. Claims among them are those of their names.
func (c *cluster) pod(ctx context.Context, t *testing.T, name string, resources corev1.ResourceRequirements) {
	t.Helper()
	spec := corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i", Resources: resources}},
		// Nobody says of the node that it is alive.
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
	}
	for _, claim := range resources.Claims {
		spec.ResourceClaims = append(spec.ResourceClaims, corev1.PodResourceClaim{Name: claim.Name, ResourceClaimName: &claim.Name})
	}
	_, err := c.client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	must(t, err)
}

// allocated waits until the pod is bound to the node, and returns its claim.
func (c *cluster) allocated(ctx context.Context, t *testing.T, pod string) (claim *resourcev1.ResourceClaim) {
	t.Helper()
	poll(ctx, t, "a token is allocated to pod "+pod, func() error {
		object, err := c.client.CoreV1().Pods("default").Get(ctx, pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if object.Spec.NodeName != node {
			return fmt.Errorf("not scheduled: %+v", object.Status.Conditions)
		}
		name := pod
		if status := object.Status.ExtendedResourceClaimStatus; status != nil {
			name = status.ResourceClaimName
		}
		claim, err = c.client.ResourceV1().ResourceClaims("default").Get(ctx, name, metav1.GetOptions{})
		if err == nil && claim.Status.Allocation == nil {
			err = errors.New("the claim is not allocated")
		}
		return err
	})
	return claim
}

func devicesOf(claim *resourcev1.ResourceClaim) (devices []string) {
	for _, result := range claim.Status.Allocation.Devices.Results {
		devices = append(devices, result.Device)
	}
	return devices
}
