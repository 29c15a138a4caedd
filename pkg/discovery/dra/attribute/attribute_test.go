// SPDX-License-Identifier: Apache-2.0

package attribute_test

import (
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/dynamic-resource-allocation/cel"

	"j5t.io/hsm/pkg/discovery/dra/attribute"
)

// serials are as odd as discovery lets them be: printable ASCII of at most 126 characters.
var serials = []string{
	"E6614C311B4FC726", "e6614c311b4fc726", `"`, `\`, `\"`, `" || true || "`, "'", "{{a}}", "\\x41", "A", "a b", " ", "~", "-", "%s",
	strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 65), strings.Repeat("a", 126), strings.Repeat("a", 125) + "b",
	strings.Repeat(`\`, 63), strings.Repeat(`"`, 126), attribute.Value(strings.Repeat("a", 64)),
}

// TestSelector evaluates every selector, as kube-scheduler does, on every device.
func TestSelector(t *testing.T) {
	t.Parallel()
	for _, selected := range serials {
		result := cel.GetCompiler(cel.Features{}).CompileCELExpression(attribute.SerialSelector(selected), cel.Options{})
		if result.Error != nil {
			t.Fatalf("%q: %v", selected, result.Error)
		}
		for _, serial := range serials {
			value := attribute.Value(serial)
			matches, _, err := result.DeviceMatches(t.Context(), cel.Device{
				Driver:     attribute.Driver,
				Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{attribute.Serial: {StringValue: &value}},
			})
			if err != nil || matches != (serial == selected) {
				t.Errorf("%q selects %q: %v, %v", selected, serial, matches, err)
			}
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	names, values := map[string]bool{}, map[string]bool{}
	for _, serial := range serials {
		name, value := attribute.DeviceName(serial), attribute.Value(serial)
		names[name], values[value] = true, true
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
			t.Errorf("%q is called %q: %q", serial, name, problems)
		}
		if problems := validation.IsQualifiedName(attribute.ResourceName(name)); len(problems) > 0 {
			t.Errorf("%q is the resource %q: %q", serial, attribute.ResourceName(name), problems)
		}
		if len(value) > resourcev1.DeviceAttributeMaxValueLength {
			t.Errorf("%q has a value of %d bytes", serial, len(value))
		}
	}
	if len(names) != len(serials) || len(values) != len(serials) {
		t.Errorf("%d serial numbers have %d names and %d values", len(serials), len(names), len(values))
	}
	if got := attribute.DeviceName("E6614C311B4FC726"); got != "e6614c311b4fc726-8f70f4f5ec" {
		t.Errorf("got %s: names must stay the same from release to release", got)
	}
	if got := attribute.HSMDeviceValue(types.NamespacedName{Namespace: "hsm-system", Name: "pico"}); got != "hsm-system/pico" {
		t.Errorf("got %s", got)
	}
	for bcd, want := range map[string]string{"0404": "4.04", "0001": "0.01", "1000": "10.00"} {
		if got := attribute.Release(bcd); got != want {
			t.Errorf("%s: got %s, want %s", bcd, got, want)
		}
	}
}
