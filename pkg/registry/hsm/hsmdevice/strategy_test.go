// SPDX-License-Identifier: Apache-2.0

package hsmdevice

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
)

func newTestStrategy() strategy {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return newStrategy(scheme)
}

func request() context.Context {
	ctx := genericapirequest.WithNamespace(context.Background(), "hsm-system")
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{APIGroup: "hsm.j5t.io", APIVersion: "v1alpha1", Resource: "hsmdevices"})
}

func stored(t *testing.T) *hsm.HSMDevice {
	t.Helper()
	device := &hsm.HSMDevice{
		ObjectMeta: metav1.ObjectMeta{Name: "pico", Namespace: "hsm-system", Generation: 9},
		Spec: hsm.HSMDeviceSpec{
			DeviceType: hsm.DeviceTypePicoHSM,
			Discovery:  &hsm.Discovery{USB: &hsm.USBDiscovery{VendorID: "20a0", ProductID: "4230"}},
			MaxDevices: 1,
		},
	}
	rest.FillObjectMetaSystemFields(device)
	if err := rest.BeforeCreate(newTestStrategy(), request(), device); err != nil {
		t.Fatal(err)
	}
	device.ResourceVersion = "7"
	return device
}

func TestGeneration(t *testing.T) {
	t.Parallel()
	old := stored(t)
	if old.Generation != 1 {
		t.Errorf("generation is %d after creation, want 1", old.Generation)
	}
	for name, test := range map[string]struct {
		change func(*hsm.HSMDevice)
		want   int64
	}{
		"label": {func(d *hsm.HSMDevice) { d.Labels = map[string]string{"a": "b"} }, 1},
		"spec":  {func(d *hsm.HSMDevice) { d.Spec.MaxDevices = 2 }, 2},
	} {
		device := old.DeepCopy()
		test.change(device)
		if err := rest.BeforeUpdate(newTestStrategy(), request(), device, old); err != nil {
			t.Fatal(err)
		}
		if device.Generation != test.want {
			t.Errorf("%s: generation is %d, want %d", name, device.Generation, test.want)
		}
	}
}

func TestValidation(t *testing.T) {
	t.Parallel()
	old := stored(t)
	for field, change := range map[string]func(*hsm.HSMDevice){
		"spec.maxDevices":             func(d *hsm.HSMDevice) { d.Spec.MaxDevices = -1 },
		"spec.discovery.usb.vendorId": func(d *hsm.HSMDevice) { d.Spec.Discovery.USB.VendorID = "x" },
	} {
		device := old.DeepCopy()
		change(device)
		if err := rest.BeforeUpdate(newTestStrategy(), request(), device, old); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), field) {
			t.Errorf("error of an update is %v, want 422 Invalid of %s", err, field)
		}
		device.ResourceVersion = ""
		if err := rest.BeforeCreate(newTestStrategy(), request(), device); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), field) {
			t.Errorf("error of a create is %v, want 422 Invalid of %s", err, field)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	for want, discovery := range map[string]*hsm.Discovery{
		"[pico PicoHSM usb 20a0:4230 1 3h]":     {USB: &hsm.USBDiscovery{VendorID: "20a0", ProductID: "4230"}},
		"[pico PicoHSM path /dev/ttyACM* 1 3h]": {DevicePath: &hsm.DevicePathDiscovery{Path: "/dev/ttyACM*"}},
		"[pico PicoHSM auto 1 3h]":              {AutoDiscovery: true},
	} {
		device := stored(t)
		device.CreationTimestamp = metav1.NewTime(time.Now().Add(-3 * time.Hour))
		device.Spec.Discovery = discovery
		table, err := tableConvertor.ConvertToTable(t.Context(), device, &metav1.TableOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(table.Rows[0].Cells); got != want {
			t.Errorf("row is %s, want %s", got, want)
		}
		var columns []string
		for _, column := range table.ColumnDefinitions {
			columns = append(columns, column.Name)
			if column.Description == "" {
				t.Errorf("column %s has no description", column.Name)
			}
		}
		if want := []string{"Name", "Type", "Discovery", "Max", "Age"}; !slices.Equal(columns, want) {
			t.Errorf("columns are %q, want %q", columns, want)
		}
	}
}
