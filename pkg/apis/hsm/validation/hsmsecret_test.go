// SPDX-License-Identifier: Apache-2.0

package validation_test

import (
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm"
)

func validSecret() *hsm.HSMSecret {
	return &hsm.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "app"},
		Spec: hsm.HSMSecretSpec{
			HSMPath:        "secrets/app/db",
			SecretName:     "db",
			SecretType:     corev1.SecretTypeOpaque,
			AutoSync:       new(true),
			SyncInterval:   10,
			SyncDirection:  hsm.SyncDirectionBidirectional,
			DeletionPolicy: hsm.DeletionPolicyDelete,
			RolloutRestartTargets: []hsm.RolloutRestartTarget{
				{Kind: hsm.WorkloadKindDeployment, Name: "web"},
				{Kind: hsm.WorkloadKindStatefulSet, Name: "web"},
			},
		},
		Data: map[string][]byte{"password": []byte(canary)},
		Status: hsm.HSMSecretStatus{
			SyncStatus:       hsm.SyncStatusInSync,
			SecretRef:        &hsm.SecretReference{Name: "db", Namespace: "app", UID: "1"},
			Conditions:       []metav1.Condition{{Type: "Ready", Status: "True", Reason: "Projected", LastTransitionTime: metav1.Now()}},
			DeviceSyncStatus: []hsm.DeviceSyncStatus{{SerialNumber: "A", SyncStatus: hsm.SyncStatusInSync}},
		},
	}
}

type secretRule = rule[hsm.HSMSecret]

// typed makes the secret of a type whose required key has a value.
func typed(secretType corev1.SecretType, key, value string) func(*hsm.HSMSecret) {
	return func(s *hsm.HSMSecret) {
		s.Spec.SecretType = secretType
		s.Data = map[string][]byte{"other": []byte(canary)}
		if key != "" {
			s.Data[key] = []byte(value)
		}
	}
}

func TestHSMSecret(t *testing.T) {
	t.Parallel()
	spec := func(change func(*hsm.HSMSecretSpec)) func(*hsm.HSMSecret) {
		return func(s *hsm.HSMSecret) { change(&s.Spec) }
	}
	target := func(kind hsm.WorkloadKind, name string) func(*hsm.HSMSecret) {
		return spec(func(s *hsm.HSMSecretSpec) {
			s.RolloutRestartTargets = append(s.RolloutRestartTargets, hsm.RolloutRestartTarget{Kind: kind, Name: name})
		})
	}
	template := func(labels, annotations map[string]string) func(*hsm.HSMSecret) {
		return spec(func(s *hsm.HSMSecretSpec) {
			s.Template = &hsm.SecretTemplate{Metadata: hsm.SecretTemplateMetadata{Labels: labels, Annotations: annotations}}
		})
	}
	testRules(t, "", validSecret, []secretRule{
		{name: "name is a DNS subdomain", object: func(s *hsm.HSMSecret) { s.Name = "D_b" }, errs: []string{"Invalid value: metadata.name"}},
		{name: "namespace is required", object: func(s *hsm.HSMSecret) { s.Namespace = "" }, errs: []string{"Required value: metadata.namespace"}},
		{name: "finalizer is qualified", object: func(s *hsm.HSMSecret) { s.Finalizers = []string{"example.com/f", "mine"} }, errs: []string{"Invalid value: metadata.finalizers[1]"}},
		{name: "finalizer is standard", object: func(s *hsm.HSMSecret) { s.Finalizers = []string{"foregroundDeletion", "kubernetes"} }},

		{name: "path has no empty segment", object: spec(func(s *hsm.HSMSecretSpec) { s.HSMPath = "/app/db" }), errs: []string{"Invalid value: spec.hsmPath"}},
		{name: "path does not climb", object: spec(func(s *hsm.HSMSecretSpec) { s.HSMPath = "secrets/app/../db" }), errs: []string{"Invalid value: spec.hsmPath"}},
		{name: "path has no other characters", object: spec(func(s *hsm.HSMSecretSpec) { s.HSMPath = "secrets/app/d b" }), errs: []string{"Invalid value: spec.hsmPath"}},
		{name: "path is short", object: spec(func(s *hsm.HSMSecretSpec) { s.HSMPath = strings.Repeat("abc/", 128) + "d" }), errs: []string{"Too long: spec.hsmPath"}},
		{name: "path cannot be changed", old: same[hsm.HSMSecret], object: spec(func(s *hsm.HSMSecretSpec) { s.HSMPath = "secrets/app/other" }), errs: []string{"Invalid value: spec.hsmPath"}},

		{name: "path by default", object: spec(func(s *hsm.HSMSecretSpec) { s.HSMPath, s.SecretName = "", "" })},
		{name: "template", object: template(map[string]string{"a": "b"}, map[string]string{"example.com/c": "any"})},
		{name: "template has no odd label", object: template(map[string]string{"a": "b c"}, nil), errs: []string{"Invalid value: spec.template.metadata.labels"}},
		{name: "template has no odd annotation", object: template(nil, map[string]string{"a b": "c"}), errs: []string{"Invalid value: spec.template.metadata.annotations"}},
		{name: "template has no label of the controller", object: template(map[string]string{"managed-by": "me"}, nil), errs: []string{"Forbidden: spec.template.metadata.labels[managed-by]"}},
		{name: "template has no annotation of the controller", object: template(nil, map[string]string{"hsm.j5t.io/adopt": "true"}), errs: []string{"Forbidden: spec.template.metadata.annotations[hsm.j5t.io/adopt]"}},
		{name: "secretName is a DNS subdomain", object: spec(func(s *hsm.HSMSecretSpec) { s.SecretName = "D_b" }), errs: []string{"Invalid value: spec.secretName"}},
		{name: "secretType is there after defaults", object: spec(func(s *hsm.HSMSecretSpec) { s.SecretType = "" }), errs: []string{"Required value: spec.secretType"}},
		{name: "secretType cannot be changed", old: same[hsm.HSMSecret], object: spec(func(s *hsm.HSMSecretSpec) { s.SecretType = "example.com/other" }), errs: []string{"Invalid value: spec.secretType"}},
		{name: "autoSync is there after defaults", object: spec(func(s *hsm.HSMSecretSpec) { s.AutoSync = nil }), errs: []string{"Required value: spec.autoSync"}},
		{name: "syncInterval is there after defaults", object: spec(func(s *hsm.HSMSecretSpec) { s.SyncInterval = 0 }), errs: []string{"Required value: spec.syncInterval"}},
		{name: "syncInterval is at least 10", object: spec(func(s *hsm.HSMSecretSpec) { s.SyncInterval = 9 }), errs: []string{"Invalid value: spec.syncInterval"}},
		{name: "syncDirection is there after defaults", object: spec(func(s *hsm.HSMSecretSpec) { s.SyncDirection = "" }), errs: []string{"Required value: spec.syncDirection"}},
		{name: "syncDirection is known", object: spec(func(s *hsm.HSMSecretSpec) { s.SyncDirection = "SecretToHSM" }), errs: []string{"Unsupported value: spec.syncDirection"}},
		{name: "deletionPolicy is there after defaults", object: spec(func(s *hsm.HSMSecretSpec) { s.DeletionPolicy = "" }), errs: []string{"Required value: spec.deletionPolicy"}},
		{name: "deletionPolicy is known", object: spec(func(s *hsm.HSMSecretSpec) { s.DeletionPolicy = "Orphan" }), errs: []string{"Unsupported value: spec.deletionPolicy"}},

		{name: "target kind is required", object: target("", "db"), errs: []string{"Required value: spec.rolloutRestartTargets[2].kind"}},
		{name: "target kind is known", object: target("Job", "db"), errs: []string{"Unsupported value: spec.rolloutRestartTargets[2].kind"}},
		{name: "target name is required", object: target(hsm.WorkloadKindDaemonSet, ""), errs: []string{"Required value: spec.rolloutRestartTargets[2].name"}},
		{name: "target name is a DNS subdomain", object: target(hsm.WorkloadKindDaemonSet, "D_b"), errs: []string{"Invalid value: spec.rolloutRestartTargets[2].name"}},
		{name: "target is named once", object: target(hsm.WorkloadKindDeployment, "web"), errs: []string{"Duplicate value: spec.rolloutRestartTargets[2]"}},
		{name: "targets are few", object: spec(func(s *hsm.HSMSecretSpec) {
			for i := range 31 {
				s.RolloutRestartTargets = append(s.RolloutRestartTargets, hsm.RolloutRestartTarget{Kind: hsm.WorkloadKindDaemonSet, Name: strconv.Itoa(i)})
			}
		}), errs: []string{"Too many: spec.rolloutRestartTargets"}},

		{name: "data key is one of a ConfigMap", object: func(s *hsm.HSMSecret) { s.Data["a/b"] = []byte(canary) }, errs: []string{"Invalid value: data[a/b]"}},
		{name: "data is at most 1 MiB", object: func(s *hsm.HSMSecret) { s.Data["large"] = make([]byte, 1<<20) }, errs: []string{"Too long: data"}},
		{name: "tls has tls.crt", object: typed(corev1.SecretTypeTLS, "tls.key", canary), errs: []string{"Required value: data[tls.crt]"}},
		{name: "tls has tls.key", object: typed(corev1.SecretTypeTLS, "tls.crt", canary), errs: []string{"Required value: data[tls.key]"}},
		{name: "dockerconfigjson has its key", object: typed(corev1.SecretTypeDockerConfigJson, "", ""), errs: []string{"Required value: data[.dockerconfigjson]"}},
		{name: "dockerconfigjson is JSON", object: typed(corev1.SecretTypeDockerConfigJson, ".dockerconfigjson", canary), errs: []string{"Invalid value: data[.dockerconfigjson]"}},
		{name: "dockercfg has its key", object: typed(corev1.SecretTypeDockercfg, "", ""), errs: []string{"Required value: data[.dockercfg]"}},
		{name: "dockercfg is JSON", object: typed(corev1.SecretTypeDockercfg, ".dockercfg", canary), errs: []string{"Invalid value: data[.dockercfg]"}},
		{name: "basic-auth has username or password", object: typed(corev1.SecretTypeBasicAuth, "", ""), errs: []string{"Required value: data[username]", "Required value: data[password]"}},
		{name: "ssh-auth has ssh-privatekey", object: typed(corev1.SecretTypeSSHAuth, "ssh-privatekey", ""), errs: []string{"Required value: data[ssh-privatekey]"}},
		{name: "service-account-token is for Kubernetes", object: func(s *hsm.HSMSecret) {
			typed(corev1.SecretTypeServiceAccountToken, "", "")(s)
			s.Annotations = map[string]string{corev1.ServiceAccountNameKey: "default"}
		}, errs: []string{"Forbidden: spec.secretType"}},
		{name: "no update makes it service-account-token", old: func(*hsm.HSMSecret) {}, object: func(s *hsm.HSMSecret) {
			s.Spec.SecretType = corev1.SecretTypeServiceAccountToken
		}, errs: []string{"Invalid value: spec.secretType"}},
		{name: "one of before can be updated", old: typed(corev1.SecretTypeServiceAccountToken, "", ""), object: func(s *hsm.HSMSecret) {
			s.Labels = map[string]string{"a": "b"}
		}},

		{name: "immutable cannot be unset", old: func(s *hsm.HSMSecret) { s.Immutable = new(true) }, object: func(s *hsm.HSMSecret) { s.Immutable = nil }, errs: []string{"Forbidden: immutable"}},
		{name: "immutable data cannot be changed", old: func(s *hsm.HSMSecret) { s.Immutable = new(true) }, object: func(s *hsm.HSMSecret) { s.Data = nil }, errs: []string{"Forbidden: data"}},
	})
}

func TestHSMSecretStatus(t *testing.T) {
	t.Parallel()
	status := func(change func(*hsm.HSMSecretStatus)) func(*hsm.HSMSecret) {
		return func(s *hsm.HSMSecret) { change(&s.Status) }
	}
	testRules(t, "status", validSecret, []secretRule{
		{name: "syncStatus is known", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.SyncStatus = "Fine" }), errs: []string{"Unsupported value: status.syncStatus"}},
		{name: "secretRef name is required", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.SecretRef.Name = "" }), errs: []string{"Required value: status.secretRef.name"}},
		{name: "secretRef name is a DNS subdomain", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.SecretRef.Name = "D_b" }), errs: []string{"Invalid value: status.secretRef.name"}},
		{name: "secretRef namespace is a DNS label", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.SecretRef.Namespace = "a.b" }), errs: []string{"Invalid value: status.secretRef.namespace"}},
		{name: "observedGeneration is not negative", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.ObservedGeneration = -1 }), errs: []string{"Invalid value: status.observedGeneration"}},
		{name: "condition has a reason", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.Conditions[0].Reason = "" }), errs: []string{"Required value: status.conditions[0].reason"}},
		{name: "condition status is known", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.Conditions[0].Status = "Yes" }), errs: []string{"Unsupported value: status.conditions[0].status"}},
		{name: "condition is there once", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.Conditions = append(s.Conditions, s.Conditions[0]) }), errs: []string{"Duplicate value: status.conditions[1]"}},
		{name: "device serial number is required", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.DeviceSyncStatus[0].SerialNumber = "" }), errs: []string{"Required value: status.deviceSyncStatus[0].serialNumber"}},
		{name: "device syncStatus is known", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) { s.DeviceSyncStatus[0].SyncStatus = "Fine" }), errs: []string{"Unsupported value: status.deviceSyncStatus[0].syncStatus"}},
		{name: "device is there once", old: same[hsm.HSMSecret], object: status(func(s *hsm.HSMSecretStatus) {
			s.DeviceSyncStatus = append(s.DeviceSyncStatus, s.DeviceSyncStatus[0])
		}), errs: []string{"Duplicate value: status.deviceSyncStatus[1]"}},
	})
}

// What a core Secret accepts, an HSMSecret accepts.
func TestHSMSecretAccepts(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*hsm.HSMSecret){
		"no data":          func(s *hsm.HSMSecret) { s.Data = nil },
		"unknown type":     typed("example.com/any", "", ""),
		"dockerconfigjson": typed(corev1.SecretTypeDockerConfigJson, ".dockerconfigjson", "{}"),
		"basic-auth":       typed(corev1.SecretTypeBasicAuth, "password", ""),
		"ssh-auth":         typed(corev1.SecretTypeSSHAuth, "ssh-privatekey", canary),
		"exactly 1 MiB":    func(s *hsm.HSMSecret) { s.Data = map[string][]byte{"large": make([]byte, 1<<20)} },
		"deep path":        func(s *hsm.HSMSecret) { s.Spec.HSMPath = "secrets/app/db/A_b-c.d" },
		"longest default path": func(s *hsm.HSMSecret) {
			s.Spec.HSMPath = "secrets/" + strings.Repeat("n", 63) + "/" + strings.Repeat("n", 253)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := validSecret()
			change(secret)
			if errs := validate(t, secret, nil, ""); len(errs) != 0 {
				t.Errorf("refused: %v", errs)
			}
		})
	}
}

// With immutable set, all but data and immutable can be changed.
func TestImmutableHSMSecretAccepts(t *testing.T) {
	t.Parallel()
	old := validSecret()
	old.Immutable = new(true)
	secret := old.DeepCopy()
	secret.Labels = map[string]string{"a": "b"}
	secret.Spec.SyncInterval = 60
	if errs := validate(t, secret, old, ""); len(errs) != 0 {
		t.Errorf("refused: %v", errs)
	}
}
