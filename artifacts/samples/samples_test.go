// SPDX-License-Identifier: Apache-2.0

// Package samples tests the manifests that lie beside it.
package samples

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/apis/hsm/validation"
)

// Manifests of users, as old as the API. They must apply as they stand.
const seeds = `
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMDevice
metadata: {name: my-pico-hsm, namespace: secrets}
spec:
  deviceType: "PicoHSM"
  discovery:
    usb: {vendorId: "20a0", productId: "4230"}
  pkcs11:
    libraryPath: "/usr/lib/libsc-hsm-pkcs11.so"
    slotId: 0
    pinSecret: {name: "pico-hsm-pin", key: "pin", namespace: "secrets"}
    tokenLabel: "MyHSM"
  nodeSelector: {hsm-type: "pico"}
  maxDevices: 1
---
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMSecret
metadata: {name: appname-secret, namespace: appnamespace}
spec:
  hsmPath: "secrets/appnamespace/appname-secret"
  secretName: "appname-secret"
  autoSync: true
  secretType: "Opaque"
  syncInterval: 300
---
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMPool
metadata: {name: pico-hsm-pool, namespace: secrets}
spec:
  hsmDeviceRefs: ["pico-hsm"]
  gracePeriod: "5m"
  mirroring: {enabled: true, primaryRole: "primary"}
`

func TestManifests(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Fatalf("found the samples %q, want one of each kind at least", files)
	}
	manifests := map[string][]byte{"seeds": []byte(seeds)}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		manifests[file] = content
	}
	for file, content := range manifests {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
			for {
				document, err := documents.Read()
				if errors.Is(err, io.EOF) {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, err := range check(t, document) {
					t.Errorf("%v in\n%s", err, document)
				}
			}
		})
	}
}

// check decodes a manifest, unknown and doubled fields being errors, and
// validates it.
func check(t *testing.T, document []byte) field.ErrorList {
	t.Helper()
	scheme := runtime.NewScheme()
	install.Install(scheme)
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(hsm.SchemeGroupVersion)
	obj, err := runtime.Decode(decoder, document)
	if err != nil {
		t.Fatal(err)
	}
	var errs field.ErrorList
	switch obj := obj.(type) {
	case *hsm.HSMSecret:
		if obj.Spec.HSMPath == "" {
			obj.Spec.HSMPath = strings.Join([]string{"secrets", obj.Namespace, obj.Name}, "/")
		}
		errs = validation.ValidateHSMSecret(obj)
	case *hsm.HSMDevice:
		errs = validation.ValidateHSMDevice(obj)
	case *hsm.HSMPool:
		errs = validation.ValidateHSMPool(obj)
	}
	versioned, err := scheme.ConvertToVersion(obj, v1alpha1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	return append(errs, scheme.Validate(context.Background(), nil, versioned)...)
}
