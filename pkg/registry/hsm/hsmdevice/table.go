// SPDX-License-Identifier: Apache-2.0

package hsmdevice

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/registry/hsm/table"
)

var tableConvertor = table.Convertor[*hsm.HSMDevice]{
	Columns: []metav1.TableColumnDefinition{
		table.NameColumn,
		{Name: "Type", Type: "string", Description: "Family of the tokens (spec.deviceType)."},
		{Name: "Discovery", Type: "string", Description: "How to find the tokens (spec.discovery): usb vendor:product, path or auto."},
		{Name: "Max", Type: "integer", Description: "Largest number of tokens to serve (spec.maxDevices)."},
		table.AgeColumn,
	},
	Cells: func(device *hsm.HSMDevice) []any {
		return []any{
			device.Name,
			string(device.Spec.DeviceType),
			describeDiscovery(device.Spec.Discovery),
			int64(device.Spec.MaxDevices),
			table.Age(device.CreationTimestamp),
		}
	},
}

func describeDiscovery(discovery *hsm.Discovery) string {
	switch {
	case discovery == nil:
		return "<none>"
	case discovery.USB != nil:
		return "usb " + discovery.USB.VendorID + ":" + discovery.USB.ProductID
	case discovery.DevicePath != nil:
		return "path " + discovery.DevicePath.Path
	default:
		return "auto"
	}
}
