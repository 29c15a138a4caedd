// SPDX-License-Identifier: Apache-2.0

package validation_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm"
)

func validPool() *hsm.HSMPool {
	return &hsm.HSMPool{
		ObjectMeta: metav1.ObjectMeta{Name: "pico", Namespace: "hsm-system"},
		Spec: hsm.HSMPoolSpec{
			HSMDeviceRefs: []string{"pico", "spare"},
			GracePeriod:   &metav1.Duration{Duration: 5 * time.Minute},
			Mirroring:     &hsm.PoolMirroring{Enabled: true, PrimaryRole: "primary"},
		},
		Status: hsm.HSMPoolStatus{
			Phase:             hsm.PoolPhaseReady,
			ReportingPods:     []hsm.ReportingPod{{PodName: "discovery-1", NodeName: "node-1", DiscoveryStatus: hsm.DiscoveryStatusCompleted}},
			AggregatedDevices: []hsm.AggregatedDevice{{NodeName: "node-1", DevicePath: "/dev/bus/usb/001/002"}},
			Members:           []hsm.PoolMember{{SerialNumber: "A", Role: "primary"}},
			Conditions:        []metav1.Condition{{Type: "Ready", Status: "True", Reason: "AllReported", LastTransitionTime: metav1.Now()}},
		},
	}
}

type poolRule = rule[hsm.HSMPool]

func TestHSMPool(t *testing.T) {
	t.Parallel()
	spec := func(change func(*hsm.HSMPoolSpec)) func(*hsm.HSMPool) {
		return func(p *hsm.HSMPool) { change(&p.Spec) }
	}
	testRules(t, "", validPool, []poolRule{
		{name: "name is a DNS subdomain", object: func(p *hsm.HSMPool) { p.Name = "P_ico" }, errs: []string{"Invalid value: metadata.name"}},
		{name: "hsmDeviceRefs are required", object: spec(func(s *hsm.HSMPoolSpec) { s.HSMDeviceRefs = nil }), errs: []string{"Required value: spec.hsmDeviceRefs"}},
		{name: "hsmDeviceRef is a DNS subdomain", object: spec(func(s *hsm.HSMPoolSpec) { s.HSMDeviceRefs[1] = "P_ico" }), errs: []string{"Invalid value: spec.hsmDeviceRefs[1]"}},
		{name: "hsmDeviceRef is named once", object: spec(func(s *hsm.HSMPoolSpec) { s.HSMDeviceRefs[1] = "pico" }), errs: []string{"Duplicate value: spec.hsmDeviceRefs[1]"}},
		{name: "gracePeriod is there after defaults", object: spec(func(s *hsm.HSMPoolSpec) { s.GracePeriod = nil }), errs: []string{"Required value: spec.gracePeriod"}},
		{name: "gracePeriod is more than zero", object: spec(func(s *hsm.HSMPoolSpec) { s.GracePeriod = &metav1.Duration{} }), errs: []string{"Invalid value: spec.gracePeriod"}},
		{name: "primaryRole is there after defaults", object: spec(func(s *hsm.HSMPoolSpec) { s.Mirroring.PrimaryRole = "" }), errs: []string{"Required value: spec.mirroring.primaryRole"}},
		{name: "primaryRole is a label value", object: spec(func(s *hsm.HSMPoolSpec) { s.Mirroring.PrimaryRole = "the first" }), errs: []string{"Invalid value: spec.mirroring.primaryRole"}},
	})
}

func TestHSMPoolStatus(t *testing.T) {
	t.Parallel()
	row := func(name, err string, change func(*hsm.HSMPoolStatus)) poolRule {
		return poolRule{name: name, old: same[hsm.HSMPool], object: func(p *hsm.HSMPool) { change(&p.Status) }, errs: []string{err}}
	}
	testRules(t, "status", validPool, []poolRule{
		row("phase is known", "Unsupported value: status.phase", func(s *hsm.HSMPoolStatus) { s.Phase = "Fine" }),
		row("totalDevices is not negative", "Invalid value: status.totalDevices", func(s *hsm.HSMPoolStatus) { s.TotalDevices = -1 }),
		row("availableDevices is not negative", "Invalid value: status.availableDevices", func(s *hsm.HSMPoolStatus) { s.AvailableDevices = -1 }),
		row("expectedPods is not negative", "Invalid value: status.expectedPods", func(s *hsm.HSMPoolStatus) { s.ExpectedPods = -1 }),
		row("observedGeneration is not negative", "Invalid value: status.observedGeneration", func(s *hsm.HSMPoolStatus) { s.ObservedGeneration = -1 }),
		row("condition has a reason", "Required value: status.conditions[0].reason", func(s *hsm.HSMPoolStatus) { s.Conditions[0].Reason = "" }),

		row("pod name is required", "Required value: status.reportingPods[0].podName", func(s *hsm.HSMPoolStatus) { s.ReportingPods[0].PodName = "" }),
		row("pod name is a DNS subdomain", "Invalid value: status.reportingPods[0].podName", func(s *hsm.HSMPoolStatus) { s.ReportingPods[0].PodName = "P_od" }),
		row("pod is there once", "Duplicate value: status.reportingPods[1]", func(s *hsm.HSMPoolStatus) { s.ReportingPods = append(s.ReportingPods, s.ReportingPods[0]) }),
		row("pod's node name is a DNS subdomain", "Invalid value: status.reportingPods[0].nodeName", func(s *hsm.HSMPoolStatus) { s.ReportingPods[0].NodeName = "N_ode" }),
		row("devicesFound is not negative", "Invalid value: status.reportingPods[0].devicesFound", func(s *hsm.HSMPoolStatus) { s.ReportingPods[0].DevicesFound = -1 }),
		row("discoveryStatus is known", "Unsupported value: status.reportingPods[0].discoveryStatus", func(s *hsm.HSMPoolStatus) { s.ReportingPods[0].DiscoveryStatus = "done" }),

		row("device's node name is required", "Required value: status.aggregatedDevices[0].nodeName", func(s *hsm.HSMPoolStatus) { s.AggregatedDevices[0].NodeName = "" }),
		row("device's node name is a DNS subdomain", "Invalid value: status.aggregatedDevices[0].nodeName", func(s *hsm.HSMPoolStatus) { s.AggregatedDevices[0].NodeName = "N_ode" }),
		row("device's HSMDevice is a DNS subdomain", "Invalid value: status.aggregatedDevices[0].hsmDeviceName", func(s *hsm.HSMPoolStatus) { s.AggregatedDevices[0].HSMDeviceName = "P_ico" }),

		row("member's serial number is required", "Required value: status.members[0].serialNumber", func(s *hsm.HSMPoolStatus) { s.Members[0].SerialNumber = "" }),
		row("member is there once", "Duplicate value: status.members[1]", func(s *hsm.HSMPoolStatus) { s.Members = append(s.Members, s.Members[0]) }),
		row("member's role is a label value", "Invalid value: status.members[0].role", func(s *hsm.HSMPoolStatus) { s.Members[0].Role = "the first" }),
		row("member's node name is a DNS subdomain", "Invalid value: status.members[0].nodeName", func(s *hsm.HSMPoolStatus) { s.Members[0].NodeName = "N_ode" }),
		row("PIN state is known", "Unsupported value: status.members[0].pinState", func(s *hsm.HSMPoolStatus) { s.Members[0].PINState = "Fine" }),
		row("reserved objects are not negative", "Invalid value: status.members[0].reservedObjects", func(s *hsm.HSMPoolStatus) { s.Members[0].ReservedObjects = -1 }),
		row("quarantined objects are not negative", "Invalid value: status.members[0].quarantinedObjects", func(s *hsm.HSMPoolStatus) { s.Members[0].QuarantinedObjects = -1 }),
		row("objects used are not negative", "Invalid value: status.members[0].objects.used", func(s *hsm.HSMPoolStatus) { s.Members[0].Objects.Used = -1 }),
		row("objects free are not negative", "Invalid value: status.members[0].objects.free", func(s *hsm.HSMPoolStatus) { s.Members[0].Objects.Free = -1 }),
		row("bytes used are not negative", "Invalid value: status.members[0].bytes.used", func(s *hsm.HSMPoolStatus) { s.Members[0].Bytes.Used = -1 }),
		row("bytes free are not negative", "Invalid value: status.members[0].bytes.free", func(s *hsm.HSMPoolStatus) { s.Members[0].Bytes.Free = -1 }),
	})
}
