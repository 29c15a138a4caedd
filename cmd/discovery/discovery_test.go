// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/discovery/deviceplugin/deviceplugintest"
	"j5t.io/hsm/pkg/discovery/dra/attribute"
	"j5t.io/hsm/pkg/discovery/report"
	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/controlplane"
)

// TestDiscovery takes what a node has from the kernel's trees to the pod's annotation,
// through a real kube-apiserver and with no other rights than those of the manifests.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newCluster(ctx, t)
	t.Run("a discovery pod writes its own report only", func(t *testing.T) { testPolicy(ctx, t, c) })
	t.Run("the report is a part of the pod", func(t *testing.T) { testWriter(ctx, t, c) })
	t.Run("tokens are found and reported", func(t *testing.T) { testBinary(ctx, t, c) })
	t.Run("a discovery pod publishes tokens of its node only", func(t *testing.T) { testSlicesPolicy(ctx, t, c) })
	t.Run("pods are given tokens", func(t *testing.T) { testAccess(ctx, t, c) })
}

func testPolicy(ctx context.Context, t *testing.T, c *cluster) {
	bound, err := kubernetes.NewForConfig(c.token)
	must(t, err)
	kubeconfig, err := c.AddServiceAccount(namespace, "hsm-discovery")
	must(t, err)
	config, err := controlplane.Config(kubeconfig)
	must(t, err)
	unbound, err := kubernetes.NewForConfig(config)
	must(t, err)

	const reportPatch = `{"metadata":{"annotations":{"hsm.j5t.io/device-report":"[]"}}}`
	// RBAC and the policy are followed within moments.
	poll(ctx, t, "the policy is in force", func() error {
		if err := dryRun(ctx, bound, ours, reportPatch); err != nil {
			return err
		}
		if err := dryRun(ctx, bound, other, reportPatch); !apierrors.IsForbidden(err) {
			return fmt.Errorf("the report of another pod: %w", err)
		}
		return nil
	})
	for name, test := range map[string]struct {
		client kubernetes.Interface
		pod    string
		patch  string
	}{
		"another pod":          {bound, other, reportPatch},
		"another annotation":   {bound, ours, `{"metadata":{"annotations":{"hsm.j5t.io/device-report":"[]","x":"y"}}}`},
		"an annotation less":   {bound, ours, `{"metadata":{"annotations":{"example.com/network":null}}}`},
		"an annotation's text": {bound, ours, `{"metadata":{"annotations":{"example.com/network":"2"}}}`},
		"a label":              {bound, ours, `{"metadata":{"labels":{"x":"y"}}}`},
		"a finalizer":          {bound, ours, `{"metadata":{"finalizers":["example.com/x"]}}`},
		"an owner":             {bound, ours, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"1"}]}}`},
		"an image":             {bound, ours, `{"spec":{"containers":[{"name":"discovery","image":"other"}]}}`},
		"without a pod":        {unbound, ours, reportPatch},
	} {
		if err := dryRun(ctx, test.client, test.pod, test.patch); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = bound.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("list pods: %v", err)
	}
}

func dryRun(ctx context.Context, client kubernetes.Interface, pod, patch string) error {
	_, err := client.CoreV1().Pods(namespace).Patch(ctx, pod, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

func testWriter(ctx context.Context, t *testing.T, c *cluster) {
	client, err := metadata.NewForConfig(c.token)
	must(t, err)
	pods := c.client.CoreV1().Pods(namespace)
	before, err := pods.Get(ctx, ours, metav1.GetOptions{})
	must(t, err)
	writer, err := report.Open(ctx, client, namespace, ours)
	must(t, err)
	if writer.Last() != nil {
		t.Errorf("a pod without a report has %v", writer.Last())
	}

	now := report.Time(time.Now())
	entries := make([]report.Entry, 150)
	for i := range entries {
		entries[i] = report.Entry{
			HSMDeviceNamespace: namespace, HSMDeviceName: fmt.Sprint("device-", i), ReportingNode: node, NodeSelected: true,
			LastReportTime: now, DiscoveryStatus: v1alpha1.DiscoveryStatusCompleted,
		}
		for j := range 100 {
			entries[i].DiscoveredDevices = append(entries[i].DiscoveredDevices, report.Device{DevicePath: "/dev/null", SerialNumber: fmt.Sprintf("%0126d", j), LastSeen: now})
		}
	}
	must(t, writer.Write(ctx, entries))
	after, err := pods.Get(ctx, ours, metav1.GetOptions{})
	must(t, err)
	value := after.Annotations[report.Annotation]
	if decoded, err := report.Decode(value); err != nil || len(decoded) != len(entries) {
		t.Errorf("got %d entries: %v", len(decoded), err)
	}
	var fields []string
	for _, managed := range after.ManagedFields {
		if managed.Manager == "hsm-discovery" {
			fields = append(fields, string(managed.FieldsV1.GetRawBytes()))
		}
	}
	if want := `{"f:metadata":{"f:annotations":{"f:hsm.j5t.io/device-report":{}}}}`; len(fields) != 1 || fields[0] != want {
		t.Errorf("discovery owns %q, want %s", fields, want)
	}
	// Nothing else has changed.
	delete(after.Annotations, report.Annotation)
	after.ResourceVersion, after.ManagedFields = before.ResourceVersion, before.ManagedFields
	if was, is := encode(t, before), encode(t, after); was != is {
		t.Errorf("the pod was\n%s\nand is\n%s", was, is)
	}

	writer, err = report.Open(ctx, client, namespace, ours)
	must(t, err)
	if !writer.Fresh(writer.Last(), time.Now(), time.Minute) || len(writer.Last()) != len(entries) {
		t.Errorf("the report is read as %d entries", len(writer.Last()))
	}

	if _, err := report.Open(ctx, client, namespace, "no-such-pod"); !apierrors.IsNotFound(err) {
		t.Errorf("open a pod that does not exist: %v", err)
	}
	// The admin may write to every pod: what stops the writer is the uid.
	admin, err := metadata.NewForConfig(c.Admin)
	must(t, err)
	writer, err = report.Open(ctx, admin, namespace, other)
	must(t, err)
	must(t, pods.Delete(ctx, other, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	if err := writer.Write(ctx, entries[:1]); !apierrors.IsNotFound(err) {
		t.Errorf("report on a pod that is gone: %v", err)
	}
	c.createPod(ctx, t, other)
	if err := writer.Write(ctx, entries[:1]); err == nil {
		t.Error("reported on a later pod of the name")
	} else {
		t.Log(err)
	}
}

func encode(t *testing.T, object any) string {
	t.Helper()
	content, err := json.Marshal(object)
	must(t, err)
	return string(content)
}

func testBinary(ctx context.Context, t *testing.T, c *cluster) {
	tree, err := sysfstest.New(t.TempDir())
	must(t, err)
	must(t, tree.Plug(pico("1-1", "E1", 1)))
	dir := kubeletDir(t, deviceplugintest.Folder)
	kubelet, err := deviceplugintest.Start(filepath.Join(dir, deviceplugintest.Folder))
	must(t, err)
	defer kubelet.Stop()
	discovery := startDiscovery(ctx, t, c, tree, "--device-access=plugin", "--kubelet-dir="+dir)
	select {
	case plugin := <-kubelet.Plugins():
		if plugin.Resource != attribute.ResourceName(attribute.DeviceName("E1")) {
			t.Errorf("the resource %s is registered", plugin.Resource)
		}
		plugin.Close()
	case <-time.After(10 * time.Minute):
		t.Error("no resource is registered")
	}

	reports := func(what string, want ...string) {
		t.Helper()
		poll(ctx, t, what, func() error {
			pod, err := c.client.CoreV1().Pods(namespace).Get(ctx, ours, metav1.GetOptions{})
			if err != nil {
				return err
			}
			entries, err := report.Decode(pod.Annotations[report.Annotation])
			if err != nil {
				return err
			}
			var got []string
			for _, entry := range entries {
				got = append(got, fmt.Sprintf("%s/%s %s %v", entry.HSMDeviceNamespace, entry.HSMDeviceName, entry.DiscoveryStatus, entry.NodeSelected))
				for _, device := range entry.DiscoveredDevices {
					got = append(got, device.SerialNumber+" "+device.DevicePath)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("got %q, want %q", got, want)
			}
			return nil
		})
	}
	const selected = "hsm-system/pico completed true"
	reports("one token", selected, "E1 /dev/bus/usb/001/001")
	must(t, tree.Plug(pico("1-2", "E2", 2)))
	reports("two tokens", selected, "E1 /dev/bus/usb/001/001", "E2 /dev/bus/usb/001/002")
	must(t, tree.Unplug("1-1"))
	reports("one is gone", selected, "E2 /dev/bus/usb/001/002")
	c.kubectl(ctx, t, "", "label", "node", node, "hsm-")
	reports("the node is not selected any more", "hsm-system/pico completed false")
	c.kubectl(ctx, t, "", "label", "node", node, "hsm=true")
	reports("it is again", selected, "E2 /dev/bus/usb/001/002")
	c.kubectl(ctx, t, "", "delete", "hsmdevices.hsm.j5t.io", "pico", "-n", namespace)
	reports("there is no HSMDevice")
	c.kubectl(ctx, t, device, "apply", "-f", "-")
	reports("there is one again", selected, "E2 /dev/bus/usb/001/002")

	metrics, err := get(ctx, discovery.url+"/metrics")
	must(t, err)
	for _, line := range []string{`hsm_discovery_devices{reason="Usable"} 1`, `hsm_discovery_report_writes_total{result="ok"}`, `hsm_discovery_scan_duration_seconds_count`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no %s in the metrics:\n%s", line, metrics)
		}
	}
	discovery.stop(ctx, t)
}

func pico(place, serial string, number int) sysfstest.USB {
	return sysfstest.USB{Name: place, VendorID: "2e8a", ProductID: "10fd", Product: "Pico Key", Serial: serial, BusNumber: "1", DeviceNumber: strconv.Itoa(number)}
}

func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// poll waits until the condition returns nil.
func poll(ctx context.Context, t *testing.T, what string, condition func() error) {
	t.Helper()
	if err := await.Poll(ctx, time.Minute, func(context.Context) error { return condition() }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
