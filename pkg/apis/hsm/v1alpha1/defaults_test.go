// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

func TestDefaults(t *testing.T) {
	t.Parallel()
	scheme := newScheme()

	secret := &v1alpha1.HSMSecret{}
	scheme.Default(secret)
	wantSecret := v1alpha1.HSMSecretSpec{
		SecretType:     "Opaque",
		AutoSync:       new(true),
		SyncInterval:   300,
		SyncDirection:  v1alpha1.SyncDirectionBidirectional,
		DeletionPolicy: v1alpha1.DeletionPolicyDelete,
	}
	if !equality.Semantic.DeepEqual(secret.Spec, wantSecret) {
		t.Errorf("HSMSecret defaults to %+v, want %+v", secret.Spec, wantSecret)
	}

	device := &v1alpha1.HSMDevice{Spec: v1alpha1.HSMDeviceSpec{
		PKCS11:    &v1alpha1.PKCS11{PINSecret: &v1alpha1.PINSecretReference{}},
		Mirroring: &v1alpha1.DeviceMirroring{},
	}}
	scheme.Default(device)
	wantDevice := v1alpha1.HSMDeviceSpec{
		PKCS11:     &v1alpha1.PKCS11{PINSecret: &v1alpha1.PINSecretReference{Key: "pin"}},
		MaxDevices: 10,
		Mirroring:  &v1alpha1.DeviceMirroring{Policy: v1alpha1.MirroringPolicyNone, SyncInterval: 300, AutoFailover: new(true)},
	}
	if !equality.Semantic.DeepEqual(device.Spec, wantDevice) {
		t.Errorf("HSMDevice defaults to %+v, want %+v", device.Spec, wantDevice)
	}

	pool := &v1alpha1.HSMPool{Spec: v1alpha1.HSMPoolSpec{Mirroring: &v1alpha1.PoolMirroring{}}}
	scheme.Default(pool)
	wantPool := v1alpha1.HSMPoolSpec{
		GracePeriod: &metav1.Duration{Duration: 5 * time.Minute},
		Mirroring:   &v1alpha1.PoolMirroring{PrimaryRole: "primary"},
	}
	if !equality.Semantic.DeepEqual(pool.Spec, wantPool) {
		t.Errorf("HSMPool defaults to %+v, want %+v", pool.Spec, wantPool)
	}
}
