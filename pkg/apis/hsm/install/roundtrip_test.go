// SPDX-License-Identifier: Apache-2.0

package install

import (
	"math/rand"
	"testing"

	apifuzzer "k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/apitesting/roundtrip"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"j5t.io/hsm/pkg/apis/hsm/fuzzer"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// Random internal objects survive the way through v1alpha1 and back.
func TestInternalRoundTrip(t *testing.T) {
	roundtrip.RoundTripTestForAPIGroup(t, Install, fuzzer.Funcs)
}

// Random v1alpha1 objects survive encoding and decoding.
func TestExternalRoundTrip(t *testing.T) {
	scheme := runtime.NewScheme()
	Install(scheme)
	codecs := serializer.NewCodecFactory(scheme)
	fill := apifuzzer.FuzzerFor(apifuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, fuzzer.Funcs), rand.NewSource(rand.Int63()), codecs)
	for _, kind := range []string{"HSMSecret", "HSMSecretList", "HSMDevice", "HSMDeviceList", "HSMPool", "HSMPoolList"} {
		t.Run(kind, func(t *testing.T) {
			roundtrip.RoundTripSpecificKindWithoutProtobuf(t, v1alpha1.SchemeGroupVersion.WithKind(kind), scheme, codecs, fill, map[schema.GroupVersionKind]bool{})
		})
	}
}
