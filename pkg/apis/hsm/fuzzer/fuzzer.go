// SPDX-License-Identifier: Apache-2.0

// Package fuzzer fills the API types with random values that survive a round
// trip. It is for tests only.
package fuzzer

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeserializer "k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/randfill"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// Funcs fill the types that have defaults: a field that is not set comes back
// with its default.
func Funcs(runtimeserializer.CodecFactory) []any {
	return []any{
		func(spec *hsm.HSMSecretSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			orDefault(&spec.SecretType, "Opaque")
			orDefault(&spec.SyncInterval, 300)
			orDefault(&spec.SyncDirection, hsm.SyncDirectionBidirectional)
			orDefault(&spec.DeletionPolicy, hsm.DeletionPolicyDelete)
			orDefault(&spec.AutoSync, new(true))
		},
		func(spec *hsm.HSMDeviceSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			orDefault(&spec.MaxDevices, 10)
		},
		func(pin *hsm.PINSecretReference, c randfill.Continue) {
			c.FillNoCustom(pin)
			orDefault(&pin.Key, "pin")
		},
		func(mirroring *hsm.DeviceMirroring, c randfill.Continue) {
			c.FillNoCustom(mirroring)
			orDefault(&mirroring.Policy, hsm.MirroringPolicyNone)
			orDefault(&mirroring.SyncInterval, 300)
			orDefault(&mirroring.AutoFailover, new(true))
		},
		func(spec *hsm.HSMPoolSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			orDefault(&spec.GracePeriod, &metav1.Duration{})
		},
		func(mirroring *hsm.PoolMirroring, c randfill.Continue) {
			c.FillNoCustom(mirroring)
			orDefault(&mirroring.PrimaryRole, "primary")
		},
		func(secret *v1alpha1.HSMSecret, c randfill.Continue) {
			c.FillNoCustom(secret)
			v1alpha1.SetObjectDefaults_HSMSecret(secret)
		},
		func(device *v1alpha1.HSMDevice, c randfill.Continue) {
			c.FillNoCustom(device)
			v1alpha1.SetObjectDefaults_HSMDevice(device)
		},
		func(pool *v1alpha1.HSMPool, c randfill.Continue) {
			c.FillNoCustom(pool)
			v1alpha1.SetObjectDefaults_HSMPool(pool)
		},
	}
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
