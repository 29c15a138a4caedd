// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"testing"
)

// TestSamples applies the samples, and sees that the cluster shows them.
func TestSamples(t *testing.T) {
	t.Parallel()
	u := admin(t)
	samples, err := filepath.Glob("../../../artifacts/samples/*.yaml")
	if err != nil || len(samples) < 3 {
		t.Fatalf("found the samples %q, want one of each kind at least (%v)", samples, err)
	}
	// They name their namespaces themselves.
	everywhere := u
	everywhere.namespace = ""
	for _, sample := range samples {
		everywhere.run("apply", "--server-side", "--validate=strict", "-f", sample)
		everywhere.run("delete", "-f", sample)
	}
}

// TestDevicesAndPools uses the kinds that are kept in the host cluster.
func TestDevicesAndPools(t *testing.T) {
	t.Parallel()
	u := admin(t)
	u.apply(`
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMDevice
metadata:
  name: pico
spec:
  deviceType: PicoHSM
  discovery:
    usb: {vendorId: "20a0", productId: "4230"}
  pkcs11:
    libraryPath: /usr/lib/opensc-pkcs11.so
    slotId: 0
    pinSecret: {name: pin, key: pin, namespace: secrets}
    tokenLabel: MyHSM
  nodeSelector: {hsm-type: pico}
  maxDevices: 1
---
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMPool
metadata:
  name: pico
spec:
  hsmDeviceRefs: [pico]
  gracePeriod: 5m
  mirroring: {enabled: true, primaryRole: primary}
`)
	contains(t, u.run("get", "hsmdev"), "NAME", "TYPE", "DISCOVERY", "MAX", "AGE", "pico", "PicoHSM")
	contains(t, u.run("get", "hsmpool"), "NAME", "TOTAL", "AVAILABLE", "REPORTING", "PHASE", "LAST AGGREGATION", "AGE", "pico")
	u.run("patch", "hsmdevice", "pico", "--type=merge", `-p={"spec":{"maxDevices":2}}`)
	u.expect("generation", u.run("get", "hsmdevice", "pico", "-o", "jsonpath={.metadata.generation} {.spec.maxDevices}"), "2 2")
	u.run("patch", "hsmpool", "pico", "--subresource=status", "--type=merge", `-p={"status":{"phase":"Pending"},"spec":{"gracePeriod":"1m"}}`)
	u.expect("status alone", u.run("get", "hsmpool", "pico", "-o", "jsonpath={.status.phase} {.spec.gracePeriod}"), "Pending 5m0s")
	contains(t, u.fail("patch", "hsmdevice", "pico", "--type=merge", `-p={"spec":{"discovery":{"autoDiscovery":true}}}`), "spec.discovery", "Invalid")
	// They lie in the system namespace, where only its own users write.
	contains(t, u.run("get", "configmaps", "--namespace=hsm-system", "-l", "hsm.j5t.io/resource", "-o", "name"), "hsmdevices."+u.namespace+".pico")
	u.run("delete", "hsmdevice,hsmpool", "--all")
	contains(t, u.fail("get", "hsmdevice", "pico"), "NotFound")
}
